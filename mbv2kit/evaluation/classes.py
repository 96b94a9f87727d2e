"""Helpers of all evaluators: unique class names, checks of class ids, confusion matrices."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbv2kit.errors import UserError


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


def confusion_matrix(ground_truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts how often each true class is predicted as each class.

    Args:
        ground_truth: ``(N,)`` class ids in ``0..classes - 1``; the caller refuses or drops other ids.
        predicted: ``(N,)`` class ids in the same range.
        classes: Number of classes.

    Returns:
        ``(classes, classes)`` int64; the row is the true class, the column the predicted one.
    """
    # int64 before the product, because uint8 masks would overflow.
    pairs = np.asarray(ground_truth, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


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
