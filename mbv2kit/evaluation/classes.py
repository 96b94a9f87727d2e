"""Helpers of all evaluators: unique class names, checks of class ids, means over classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbv2kit.errors import UserError, first_few


def unique_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns unique names: the class id in brackets is appended to names that occur several times.

    ImageNet, for example, has two cranes and two maillots.
    """
    count = Counter(class_names)
    return tuple(name if count[name] == 1 else f"{name} [{class_id}]" for class_id, name in enumerate(class_names))


def check_ground_truth(class_ids: ArrayLike, classes: int, image_id: str) -> None:
    """Raises :class:`UserError` with the name of the image if an id in its ground truth is not below ``classes``."""
    outside = _outside(class_ids, classes)
    if outside is not None:
        raise UserError(
            f"{image_id}: its annotation holds class {outside}, but the data set has {classes} classes "
            f"(0..{classes - 1}); correct the annotation or the list of class names."
        )


def check_prediction(class_ids: ArrayLike, classes: int, image_id: str) -> None:
    """Raises :class:`UserError` with the name of the image if the model predicts a class that the data set lacks."""
    outside = _outside(class_ids, classes)
    if outside is not None:
        raise UserError(
            f"{image_id}: the model predicts class {outside}, but the data set has {classes} classes "
            f"(0..{classes - 1}); evaluate on data with the classes that the model was trained on."
        )


def _outside(class_ids: ArrayLike, classes: int) -> int | None:
    ids = np.asarray(class_ids)
    if ids.size == 0:
        return None
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0:
        return lowest
    return highest if highest >= classes else None


def share(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Returns ``part / whole``, element by element; NaN where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    shares = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole != 0)
    return shares


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Returns the mean of all values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def note_on_missing(class_names: Sequence[str], counts: ArrayLike, metric: str, unit: str) -> tuple[str, ...]:
    """Returns a sentence on the classes that a mean over classes cannot judge, or nothing if all occur.

    Args:
        class_names: The classes.
        counts: ``(K,)`` how often each class occurs in the ground truth.
        metric: The mean, such as ``mIoU``.
        unit: What is counted, such as ``pixel``.
    """
    missing = [name for name, count in zip(class_names, np.asarray(counts).tolist(), strict=True) if not count]
    if not missing:
        return ()
    if len(missing) == len(class_names):
        return (f"The ground truth holds no {unit} of any class, so {metric} cannot be measured.",)
    return (
        f"{len(missing)} of {len(class_names)} classes ({first_few(missing)}) have no {unit} in the ground truth, "
        f"so {metric} says nothing about them.",
    )
