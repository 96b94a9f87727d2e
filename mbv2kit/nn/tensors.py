"""Image arrays as tensors; tensors in nested containers, and the memory that they share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mbv2kit.structures import Input


def images_to_tensor(images: Sequence[Input]) -> Tensor:
    """Stacks ``(H, W, 3)`` arrays of one size into ``(B, 3, H, W)`` of their type, channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor that the host has made to a device, without waiting for what the device is computing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yields the tensors in nested mappings, lists and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def sum_of(scalars: Iterable[Tensor]) -> Tensor:
    """Returns the sum of tensors without dimensions."""
    return torch.stack(list(scalars)).sum()


def storage_id(tensor: Tensor) -> int:
    """Returns a number that is equal for tensors that share memory; a later tensor may get that of a freed one."""
    return int(tensor.untyped_storage()._cdata)
