"""Steps whose loss or gradient is not finite are skipped and counted; three in a row end the run."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError

_log = logging.getLogger(__name__)

LIMIT = 3

# Without a whole epoch there is no checkpoint, and no run folder is left.
KEPT = "The checkpoint of the last whole epoch, if there is one, is kept."


class StepGuard:
    """Undoes steps that are not finite, and stops the run at the third in a row.

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

    def check(self, loss: Tensor, step: int, image_ids: Sequence[str], *, scaled: bool = False) -> bool:
        """Checks loss and gradients; a bad step loses its gradients, so that the optimizer moves no weight.

        Args:
            loss: The step's loss.
            step: Number of the step, for the message.
            image_ids: Names of the images in the batch, for the message.
            scaled: Whether gradients are scaled for fp16, so that they may overflow until the scale is low enough: such
                a step is undone and not counted.

        Returns:
            Whether the step counts.

        Raises:
            UserError: This was the third bad step in a row.
        """
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)):
            self._in_a_row = 0
            return True
        for parameter in self._model.parameters():
            parameter.grad = None
        with torch.no_grad():
            for buffer, saved in zip(self._model.buffers(), self._saved, strict=True):
                buffer.copy_(saved)
        if scaled and bool(torch.isfinite(loss.detach())):
            return False
        self.skipped += 1
        self._in_a_row += 1
        what = f"step {step}: loss {float(loss.detach()):.4g}, gradient norm {float(norm):.4g}"
        images = ", ".join(image_ids)
        _log.warning("%s; the step is skipped (images: %s)", what, images)
        if self._in_a_row == LIMIT:
            raise UserError(
                f"Training stopped at {what}, the third step in a row that is not finite, on the images {images}. "
                f"Lower optimizer.lr, set trainer.gradient_clip_norm=1, or look at those images. {KEPT}"
            )
        return False
