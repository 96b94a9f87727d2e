"""Which predictors of a detector read which feature map, so that they can follow the maps."""

from collections.abc import Sequence

from torch import Tensor

from mbv2kit.heads.multibox import MultiBox
from mbv2kit.models.vision_model import VisionModel


def tensors_by_map(model: VisionModel, start: VisionModel) -> dict[str, Tensor]:
    """Returns the tensors of ``start`` by the names that they have in ``model``, which may predict on other maps.

    The predictors of a variant of SSD are numbered from the finest map on, so that another map before them moves all of
    them.

    Args:
        model: The model to load into.
        start: The model that the weights belong to.

    Returns:
        Tensors by the names of ``model``. Predictors of maps that it does not predict on have the name of the map, such
        as ``heads.detection.classifiers.layer_8_expansion.weight``.
    """
    found = start.state_dict()
    for head, ours in model.heads.items():
        theirs = start.heads[head] if head in start.heads else None  # noqa: SIM401 - ModuleDict has no get
        if isinstance(ours, MultiBox) and isinstance(theirs, MultiBox):
            found = {_moved(name, f"heads.{head}", theirs.maps, ours.maps): tensor for name, tensor in found.items()}
    return found


def _moved(name: str, head: str, theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Returns the name of a predictor's tensor where it reads the map that it read; other names as they are."""
    for part in ("classifiers", "regressors"):
        prefix = f"{head}.{part}."
        if name.startswith(prefix):
            place, _, rest = name.removeprefix(prefix).partition(".")
            source = theirs[int(place)]
            return f"{prefix}{ours.index(source) if source in ours else source}.{rest}"
    return name
