"""The objects of a batch as a detector's loss reads them; crowd regions are neither objects nor background."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mbv2kit.heads.registry import Targets
from mbv2kit.nn import boxes as bx

# A box with more than half of its area in a crowd region may show one of its objects, so it is not background.
CROWD_COVER = 0.5


@dataclass(frozen=True, slots=True)
class Objects:
    """The boxes of B images, filled up to the same number N.

    Attributes:
        boxes: ``(B, N, 4)`` on the unit square.
        labels: ``(B, N)`` int64.
        crowd: ``(B, N)`` bool: which are crowd regions.
        counted: ``(B, N)`` bool: which are objects.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    counted: Tensor


def objects_in(targets: Targets) -> Objects:
    """Returns the objects of a detector's targets."""
    return Objects(
        boxes=bx.to_unit(pad_sequence(targets["boxes"], batch_first=True), targets["size"]),
        labels=pad_sequence(targets["labels"], batch_first=True),
        crowd=pad_sequence(targets["crowd"], batch_first=True),
        counted=pad_sequence([~crowd for crowd in targets["crowd"]], batch_first=True),
    )


def in_crowd(boxes: Tensor, shared: Tensor, crowd: Tensor) -> Tensor:
    """Finds the boxes that have over half of their area in one crowd region.

    Args:
        boxes: ``(..., P, 4)``.
        shared: ``(..., N, P)``: the areas that they share with N regions.
        crowd: ``(..., N)`` bool: which regions are crowds.

    Returns:
        ``(..., P)`` bool.
    """
    covered = shared > CROWD_COVER * bx.area(boxes)[..., None, :]
    return (covered & crowd[..., None]).any(dim=-2)
