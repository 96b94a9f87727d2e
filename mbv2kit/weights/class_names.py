"""Names of the classes of published weights; most files hold only their number."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.files.text import read_lines
from mbv2kit.models.spec import ModelSpec

_IMAGENET_CLASSES = 1000
_VOC_CLASSES = 21
_COCO_IDS = 90
_COCO_CLASSES = 80


def imagenet_classes() -> tuple[str, ...]:
    """Returns the names of the 1000 ImageNet classes in the order of their WordNet ids; all are different."""
    # Takes seconds to import, and few models need it.
    from torchvision.models import MobileNet_V2_Weights

    return tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


def voc_classes() -> tuple[str, ...]:
    """Returns ``background`` and the names of the 20 classes of Pascal VOC in the order of its masks."""
    from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights

    _, *names = DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    return ("background", *names)


def classification_classes(outputs: int) -> tuple[tuple[str, ...], bool]:
    """Names the classes of a classifier by the number of its outputs.

    Returns:
        The names, and whether a background comes before them as the first output: TensorFlow's ImageNet models have
        1001 outputs. Classes of an unknown list are called ``class_0`` and so on.
    """
    if outputs in (_IMAGENET_CLASSES, _IMAGENET_CLASSES + 1):
        return imagenet_classes(), outputs > _IMAGENET_CLASSES
    return _numbered(outputs), False


def without_background(names: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Removes the background from the names of a classifier's outputs.

    Only the 1000 classes of ImageNet come with one; elsewhere ``background`` may be a class like any other.

    Returns:
        The names of the classes, and whether a background came before them.
    """
    background = len(names) == _IMAGENET_CLASSES + 1 and names[0].lower() == "background"
    return tuple(names[1:] if background else names), background


def segmentation_classes(outputs: int) -> tuple[str, ...]:
    """Names the classes of a segmentation network by the number of its outputs: 21 are those of Pascal VOC."""
    return voc_classes() if outputs == _VOC_CLASSES else _numbered(outputs)


def detection_classes(columns: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names the classes of a detector by the number of its logits, a background included.

    90 classes are those of COCO's ids, ten of which were never given to an object; others are named by
    :func:`detector_names`.

    Returns:
        The names, and the columns that have them; those of an id that was never given have none.
    """
    if columns == _COCO_IDS + 1:
        named = {place: name for place, name in enumerate(coco_names()) if name is not None}
        return tuple(named.values()), tuple(named)
    return detector_names(columns - 1), tuple(range(1, columns))


def detector_names(count: int) -> tuple[str, ...]:
    """Names the classes of a detector by their number: 20 are those of Pascal VOC, 80 those of COCO's objects."""
    if count == _COCO_CLASSES:
        return tuple(name for name in coco_names() if name is not None)
    return voc_classes()[1:] if count == _VOC_CLASSES - 1 else _numbered(count)


def coco_names() -> tuple[str | None, ...]:
    """Returns the names of COCO's categories by their ids 0..90; None for an id that no object has."""
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    names = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
    return tuple(None if name in ("N/A", "__background__") else name for name in names)


def find_labels(lists: Sequence[tuple[str, ...]], count: int) -> tuple[str, ...] | None:
    """Returns the first of some lists of names that has ``count`` of them; None if there is none."""
    return next((names for names in lists if len(names) == count), None)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class_{index}" for index in range(count))


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """Reads the names of classes from a text file, one a line.

    Args:
        path: The file. Lines after the first empty one are ignored, since label files often end with a note.
        count: Number of classes of the model, without an internal background. If the file has one name more, its first
            name is that background.

    Raises:
        UserError: The file cannot be read or has another number of names.
    """
    names = [line.strip() for line in read_lines(path)]
    names = names[: names.index("")] if "" in names else names
    if len(names) == count + 1:
        names = names[1:]
    if len(names) != count:
        raise UserError(f"class_names={path} has {len(names)} names, one a line; the model has {count} classes.")
    return tuple(names)


def with_class_names(spec: ModelSpec, file: str | None) -> ModelSpec:
    """Returns a spec with the class names of a text file; the spec itself if ``file`` is None.

    Raises:
        UserError: The model has several tasks, or the file has another number of names than the model has classes.
    """
    if file is None:
        return spec
    if len(spec.class_names) > 1:
        raise UserError(f"class_names={file} fits one task, but the model does {', '.join(spec.class_names)}.")
    names = {task: read_class_names(Path(file), len(known)) for task, known in spec.class_names.items()}
    return replace(spec, class_names=names)


def check_names(names: Sequence[str], count: int, source: str) -> tuple[str, ...]:
    """Returns the names that came with the weights; raises :class:`UserError` unless there are ``count``."""
    if len(names) != count:
        raise UserError(f"{source} names {len(names)} classes, but its network has {count}.")
    return tuple(names)
