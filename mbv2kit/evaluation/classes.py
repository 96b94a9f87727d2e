"""What the three evaluations share: class names told apart, ids checked, ground truth counted against prediction."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbv2kit.errors import UserError


def unique_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names as keys of a table: one that occurs twice is followed by its class id in brackets.

    ImageNet's list of names, for one, holds two cranes and two maillots.
    """
    count = Counter(class_names)
    return tuple(name if count[name] == 1 else f"{name} [{class_id}]" for class_id, name in enumerate(class_names))


def check_ground_truth(class_ids: ArrayLike, classes: int, image_id: str) -> None:
    """Raises :class:`UserError`, naming the image, where its ground truth holds an id outside ``0..classes - 1``."""
    stranger = _outside(class_ids, classes)
    if stranger is not None:
        raise UserError(
            f"{image_id}: its annotation holds class {stranger}, but the data set has {classes} classes "
            f"(0..{classes - 1}); correct the annotation or the list of class names."
        )


def check_prediction(class_ids: ArrayLike, classes: int, image_id: str) -> None:
    """Raises :class:`UserError`, naming the image, where the model saw a class that the data set does not have."""
    stranger = _outside(class_ids, classes)
    if stranger is not None:
        raise UserError(
            f"{image_id}: the model predicts class {stranger}, but the data set has {classes} classes "
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
    """Counts how often each true class was taken for each class.

    Args:
        ground_truth: ``(N,)`` class ids in ``0..classes - 1``; other ids must have been refused or dropped before.
        predicted: ``(N,)`` class ids in the same range.
        classes: Number of classes.

    Returns:
        ``(classes, classes)`` int64; the row is the true class, the column the predicted one.
    """
    # int64 before the product: uint8 masks would wrap around.
    pairs = np.asarray(ground_truth, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


def share(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Returns ``part / whole``, element by element; NaN where the whole is nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    shares = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole != 0)
    return shares


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Returns the mean of all values that are not NaN; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
