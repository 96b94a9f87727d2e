"""Steps whose loss or gradient is not finite are skipped and counted; three in a row end the run."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError

_log = logging.getLogger(__name__)

LIMIT = 3

# Without a whole epoch there is no checkpoint, and no run folder is left.
KEPT = "The checkpoint of the last whole epoch, if there is one, is kept."


@dataclass(frozen=True, slots=True)
class Step:
    """What the guard tells of a step.

    Attributes:
        number: Its number.
        image_ids: Names of the images in its batch.
        scaled: Whether its gradients are scaled for fp16, so that they may overflow until the scale is low enough: such
            a step is undone and not counted.
    """

    number: int
    image_ids: Sequence[str]
    scaled: bool = False


class StepGuard:
    """Undoes steps that are not finite, and stops the run at the third in a row.

    A step is checked and undone where it is computed, and counted as soon as its numbers have reached the host.

    Args:
        model: The model in training.

    Attributes:
        skipped: Number of steps undone so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.skipped = 0
        self._in_a_row = 0
        self._model = model
        self._saved: list[Tensor] = []

    def remember(self) -> None:
        """Copies the batch norm statistics, which the forward pass changes before the step can be checked."""
        buffers = list(self._model.buffers())
        if self._saved:
            torch._foreach_copy_(self._saved, buffers)
        else:
            self._saved = [buffer.clone() for buffer in buffers]

    @torch.no_grad()
    def check(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Checks loss and gradients, and gives the statistics of a bad step back.

        Args:
            loss: The step's loss.

        Returns:
            Whether the step counts, a bool, and the norm of its gradient; both scalars on the device.
        """
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        for buffer, saved in zip(self._model.buffers(), self._saved, strict=True):
            buffer.copy_(torch.where(finite, buffer, saved))
        return finite, norm

    def count(self, loss: float, norm: float, step: Step) -> bool:
        """Counts a step that was checked.

        Args:
            loss: Its loss.
            norm: The norm of its gradient.
            step: What to tell of it.

        Returns:
            Whether it counts.

        Raises:
            UserError: This was the third bad step in a row.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row = 0
            return True
        if step.scaled and math.isfinite(loss):
            return False
        self.skipped += 1
        self._in_a_row += 1
        what = f"step {step.number}: loss {loss:.4g}, gradient norm {norm:.4g}"
        images = ", ".join(step.image_ids)
        _log.warning("%s; the step is skipped (images: %s)", what, images)
        if self._in_a_row == LIMIT:
            raise UserError(
                f"Training stopped at {what}, the third step in a row that is not finite, on the images {images}. "
                f"Lower optimizer.lr, set trainer.gradient_clip_norm=1, or look at those images. {KEPT}"
            )
        return False
