"""Tells before the first step where a run is too short for a head that starts from nothing."""

import logging
from collections.abc import Collection

from mbv2kit.models.vision_model import VisionModel

_log = logging.getLogger(__name__)


def tell_short_run(model: VisionModel, name: str, loaded: Collection[str], steps: int, batch_size: int) -> None:
    """Warns where a head whose weights, or those that predict boxes, are mostly fresh gets fewer steps than it needs.

    Args:
        model: The model to train.
        name: The head that is trained.
        loaded: Names of its tensors that come from weights.
        steps: Steps of the whole run.
        batch_size: Images of a step.
    """
    head = model.heads[name]
    if steps >= head.fewest_steps or not _is_fresh(model, name, loaded):
        return
    _log.warning(
        "This run takes %d steps of %d images, but a head for %s that starts fresh may find next to nothing before "
        "about %d. More epochs (trainer.max_epochs), smaller batches (loader.batch_size), or weights= with a head of "
        "the same kind (head=) help",
        steps,
        batch_size,
        name,
        head.fewest_steps,
    )


def _is_fresh(model: VisionModel, place: str, loaded: Collection[str]) -> bool:
    """Returns whether more than half of a head's numbers, or of those of its boxes, come from no weights."""
    head = model.heads[place]
    prefixes = [f"heads.{place}."]
    if head.box_predictor is not None:
        prefixes.append(f"heads.{place}.{head.box_predictor}.")
    for prefix in prefixes:
        sizes = {name: part.numel() for name, part in model.named_parameters() if name.startswith(prefix)}
        if 2 * sum(sizes[name] for name in loaded if name in sizes) < sum(sizes.values()):
            return True
    return False
