"""Turns a checkpoint of an SSD that was trained in PyTorch into a model, by a table of its layers and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.weights.class_names import detector_names
from mbv2kit.weights.norm_tensors import biases_into_norms
from mbv2kit.weights.published import Published, Triple, find_width, gray, origin, translate

MAPS = 6
HEAD = "heads.detection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A detector of another project, and the same detector in mbv2kit.

    A file holds only its weights; the other attributes are the settings with which the project trains and runs it.

    Attributes:
        name: Name of the project and of the detector in it, for messages.
        modules: The project's name of every module with parameters or buffers, and its name in mbv2kit.
        backbone: Name and arguments of the backbone, but for its width.
        head: Name and arguments of the head.
        side: Height and width of the input.
        mean: Mean of the pixels for each channel, for pixels in 0..255.
        std: Standard deviation of the pixels for each channel, for pixels in 0..255.
        background_last: Whether the score of the background comes after those of the classes, not before.
    """

    name: str
    modules: Mapping[str, str]
    backbone: Mapping[str, Any]
    head: Mapping[str, Any]
    side: int
    mean: Triple
    std: Triple
    background_last: bool = False


def prior_shapes(squares: Sequence[float], side: int, *, clipped: bool) -> list[list[tuple[float, float]]]:
    """Returns the (width, height) of the six default boxes of each map in the order of SSD's first code.

    A map has a square, one between it and the square of the next map, and the first one at the aspect ratios 2, 1/2, 3
    and 1/3.

    Args:
        squares: Side of the square of each map in pixels, and of the one after the last.
        side: Height and width of the input in pixels.
        clipped: Whether no box is wider or higher than the input.

    Returns:
        Fractions of ``side``.
    """
    most = 1.0 if clipped else float("inf")
    shapes = []
    for square, following in pairwise(squares):
        sized = [(square, 1.0), (sqrt(square * following), 1.0), *((square, ratio) for ratio in (2, 1 / 2, 3, 1 / 3))]
        shapes.append(
            [(min(size * sqrt(ratio) / side, most), min(size / sqrt(ratio) / side, most)) for size, ratio in sized]
        )
    return shapes


def read_detector(
    detectors: Sequence[Detector],
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    sha256: str,
    class_names: Sequence[str] | None = None,
) -> Published:
    """Translates the tensors of the detector that they fit best.

    Args:
        detectors: The detectors of a project.
        tensors: Tensors by the project's names.
        source: The file that the tensors were read from.
        sha256: Its hash.
        class_names: Names that came with the tensors. Without them, or if there is another number of them than of
            classes, 20 classes are those of Pascal VOC, 80 those of COCO, and others are numbered.

    Raises:
        UserError: The tensors belong to another network.
    """
    detector = min(detectors, key=lambda each: len(_missing(each, tensors)))
    known = " and ".join(each.name for each in detectors)
    if missing := _missing(detector, tensors):
        raise UserError(f"{source} lacks '{missing[0]}' of {detector.name}; of such networks only {known} can be read.")
    renamed, others = translate(tensors, detector.modules)
    if others:
        raise UserError(
            f"{source} holds '{others[0]}', which {detector.name} does not have; of such networks only {known} can be "
            "read."
        )
    count = _count_classes(detector, tensors, source)
    backbone, head = dict(detector.backbone), dict(detector.head)
    renamed = biases_into_norms(renamed, head["norm_eps"], source)
    options = {key: value for key, value in backbone.items() if key != "name"}
    backbone["width"] = find_width(renamed, backbone["name"], **options)
    if detector.background_last:
        for layer in _score_layers(detector).values():
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name in renamed:
                    renamed[name] = _background_first(renamed[name], count + 1)
    names = tuple(class_names) if class_names and len(class_names) == count else detector_names(count)
    spec = ModelSpec(
        backbone=backbone,
        heads={"detection": head},
        class_names={"detection": names},
        input=Preprocess((detector.side, detector.side), "stretch", fill=gray(detector.mean)),
        mean=detector.mean,
        std=detector.std,
        origin=origin(
            source,
            sha256=sha256,
            license=None,
            network=detector.name,
            background_class="last output" if detector.background_last else "first output",
        ),
    )
    return Published(spec=spec, tensors=renamed)


def _count_classes(detector: Detector, tensors: Mapping[str, Tensor], source: str) -> int:
    """Returns the number of classes that the first map scores, without the background."""
    boxes = len(detector.head["anchors"][0])
    name = f"{next(iter(_score_layers(detector)))}.weight"
    shape = tensors[name].shape
    scores = shape[0] if shape else 0
    if scores % boxes or scores < 2 * boxes:
        raise UserError(
            f"{source} has {scores} scores in '{name}', expected {boxes} for the background and {boxes} for "
            f"each class; it is not {detector.name}."
        )
    return scores // boxes - 1


def _score_layers(detector: Detector) -> dict[str, str]:
    """Returns the names of the layers that score the boxes of each map, and their names in mbv2kit."""
    ends = {f"{HEAD}.classifiers.{level}{part}" for level in range(MAPS) for part in ("", ".1")}
    return {theirs: ours for theirs, ours in detector.modules.items() if ours in ends}


def _background_first(tensor: Tensor, columns: int) -> Tensor:
    """Moves the last of each box's ``columns`` scores before the others."""
    # A tensor of another shape is reported when the model is built.
    if not tensor.ndim or not tensor.numel() or len(tensor) % columns:
        return tensor
    return tensor.reshape(-1, columns, *tensor.shape[1:]).roll(1, dims=1).flatten(0, 1)


def _missing(detector: Detector, tensors: Mapping[str, Tensor]) -> list[str]:
    names = (f"{module}.weight" for module in detector.modules)
    return [name for name in names if name not in tensors]
