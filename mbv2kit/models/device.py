"""The device that torch computes on, by the name that a user gives it."""

from typing import Literal, get_args

from mbv2kit.errors import UserError, nearest

Device = Literal["cpu", "auto", "cuda", "mps"]


def choose_device(name: str) -> str:
    """Returns the device of a name, which torch has.

    Args:
        name: ``cpu``, ``cuda`` (an NVIDIA or AMD GPU), ``mps`` (one of Apple), or ``auto``: a GPU where torch has one,
            and the CPU otherwise, also where torch is missing.

    Raises:
        UserError: The name is unknown, or there is no such device.
    """
    if name not in get_args(Device):
        raise UserError(f"There is no device '{name}'.{nearest(name, get_args(Device))}")
    if name == "cpu":
        return name
    try:
        import torch
    except ModuleNotFoundError:
        if name == "auto":
            return "cpu"
        raise UserError(f"device={name} needs torch: pip install 'mbv2kit[train]'.") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [device for device, is_there in there.items() if is_there]
    if name == "auto":
        return found[0] if found else "cpu"
    if name not in found:
        raise UserError(
            f"device={name}: torch {torch.__version__} finds no such device on this machine; set device="
            f"{found[0] if found else 'cpu'}, or install a torch that is built for it."
        )
    return name
