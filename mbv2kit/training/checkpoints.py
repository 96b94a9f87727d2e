"""Checkpoints: written as a whole next to the previous one, and read with a sentence where one is damaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import open_atomically
from mbv2kit.nn.stored_tensors import StoredTensorsError, read_pickle

LAST = "last.ckpt"

# What Lightning and VisionTask need to go on.
_PARTS: Mapping[str, type] = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "DataModule": dict,
    "epoch_pictures": int,
}
_DATA_PARTS: Mapping[str, type] = {"epoch": int, "start": int}


class WholeCheckpoints(CheckpointIO):
    """Reads and writes the checkpoints of a trainer.

    Lightning's own way copies from the temporary folder over the previous file, which a kill on the way destroys.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Replaces a checkpoint in one step.

        Raises:
            UserError: It cannot be written; the previous one stays.
        """
        path = Path(path)
        with disk_errors_told(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; see :func:`read_checkpoint`."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of a training run.

    Raises:
        UserError: It is missing, damaged, or none of mbv2kit; the message names what is left of the run.
    """
    try:
        return _read(path)
    except UserError as error:
        raise UserError(f"{error} {_what_is_left(path)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint = read_pickle(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint.") from None
    except StoredTensorsError as error:
        # torch explains at length how to read what it does not trust.
        reason = str(error).partition(". ")[0][:100]
        raise UserError(f"{path} is damaged, or no checkpoint ({reason}).") from None
    problem = _problem(checkpoint, _PARTS) or _problem(checkpoint["DataModule"], _DATA_PARTS)
    if problem:
        raise UserError(f"{path} is no checkpoint of a training run: {problem}.")
    return checkpoint  # type: ignore[no-any-return]


def _problem(found: Any, parts: Mapping[str, type]) -> str | None:
    for part, kind in parts.items():
        if not isinstance(found, dict) or part not in found:
            return f"it has no {part}"
        if not isinstance(found[part], kind):
            return f"its {part} must be of type {kind.__name__}, got {type(found[part]).__name__}"
    return None


def _what_is_left(path: Path) -> str:
    for other in sorted(path.parent.glob("*.ckpt")):
        if other == path:
            continue
        try:
            epoch = _read(other)["epoch"] + 1
        except UserError:
            continue
        return f"{other} is whole: copy it to {path.name} to go on after epoch {epoch}."
    return "No other checkpoint of the run is left; start a new run."


def between_epochs(checkpoint: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint is of the end of an epoch; otherwise a signal stopped the run within one."""
    return bool(checkpoint["epoch_pictures"] == 0 and checkpoint["DataModule"]["start"] == 0)


def is_over(checkpoint: Mapping[str, Any], max_epochs: int, patience: int | None) -> bool:
    """Returns whether nothing is left to train after a checkpoint.

    Args:
        checkpoint: The last one of a run.
        max_epochs: Epochs that the run is to have.
        patience: Validations without a better metric after which training stops; None for never.
    """
    if not between_epochs(checkpoint):
        return False
    if checkpoint["epoch"] + 1 >= max_epochs:
        return True
    states = [state for key, state in checkpoint["callbacks"].items() if key.startswith("EarlyStopping")]
    return patience is not None and any(state["wait_count"] >= patience for state in states)
