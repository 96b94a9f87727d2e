"""Predictions in the form of the package supervision, which draws, tracks, counts and filters them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.imaging.colors import BACKGROUND
from mbv2kit.structures import Boxes, Classification, Detections, Prediction

if TYPE_CHECKING:
    import supervision


def to_supervision(
    prediction: Prediction, class_names: Sequence[str], then_class_names: Sequence[str] = ()
) -> "supervision.Detections | supervision.Classifications":
    """Converts a prediction; see :meth:`mbv2kit.inference.results.Result.to_supervision`.

    Raises:
        UserError: The package supervision is not installed.
    """
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise UserError(f"to_supervision() needs the package supervision ({error}): pip install supervision") from None

    if isinstance(prediction, Classification):
        return supervision.Classifications(class_id=prediction.class_ids, confidence=prediction.scores)
    if isinstance(prediction, Detections):
        then = prediction.then
        return supervision.Detections(
            xyxy=prediction.boxes,
            confidence=prediction.scores,
            class_id=prediction.class_ids,
            data=_names("class_name", prediction.class_ids, class_names)
            | ({} if then is None else _names("then_class_name", then.class_ids, then_class_names)),
        )
    class_ids = np.array([i for i in np.unique(prediction.mask) if class_names[i] != BACKGROUND], dtype=np.int64)
    masks = prediction.mask[None] == class_ids[:, None, None]
    return supervision.Detections(
        xyxy=np.array([_box_around(mask) for mask in masks], dtype=np.float32).reshape(-1, 4),
        mask=masks,
        class_id=class_ids,
        data=_names("class_name", class_ids, class_names),
    )


def _names(key: str, class_ids: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, NDArray[np.str_]]:
    return {key: np.array([class_names[i] for i in class_ids.tolist()], dtype=np.str_)}


def _box_around(mask: NDArray[np.bool_]) -> Boxes:
    """Returns the box ``(4,)`` around the true pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
