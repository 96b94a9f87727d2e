"""Draws predictions: classes, boxes and regions on an image, ground truth next to prediction, a sheet of many images.

Images are ``(H, W, 3)`` uint8 RGB arrays. Small images are enlarged first, so that the text on them is readable.
Characters that no font of the machine has appear as boxes.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from mbv2kit.imaging.canvas import enlarge, fitting_font, margin_of, pad, scale, stack, text_panel
from mbv2kit.imaging.layers import draw_boxes, draw_regions, list_classes
from mbv2kit.structures import BoxClasses, Classification, Detections, Image, Prediction, Sample, Segmentation

BEST = 5
# Boxes of a lower score would hide the image.
DRAW_MIN_SCORE = 0.4
# From bottom to top: regions would hide boxes, and their legend belongs next to the image.
_LAYERS: Sequence[type[Prediction]] = (Segmentation, Detections, Classification)


def annotate(
    image: Image, prediction: Prediction, class_names: Sequence[str], min_score: float = DRAW_MIN_SCORE
) -> Image:
    """Draws a prediction: the best classes below the image, boxes with tags, or colored regions with a legend.

    Args:
        image: The image; it is not changed.
        prediction: The prediction, in pixels of the image.
        class_names: Names by class id.
        min_score: Boxes with a lower score are left out; other predictions ignore it.

    Returns:
        The drawing, as wide as the image or wider, with a strip below it for classes and legends.

    Raises:
        ValueError: The mask and the image differ in size.
    """
    return annotate_together(image, [(prediction, class_names)], min_score)


def annotate_together(
    image: Image,
    predictions: Iterable[tuple[Prediction, Sequence[str]]],
    min_score: float = DRAW_MIN_SCORE,
    then_class_names: Sequence[str] = (),
) -> Image:
    """Draws the predictions of several tasks on one image: regions under boxes, a legend and the classes below them.

    Args:
        image: The image; it is not changed.
        predictions: Predictions of different types, in any order, each with its names by class id.
        min_score: Boxes with a lower score are left out.
        then_class_names: Names by class id of a second model that classified the boxes.

    Returns:
        The drawing, as :func:`annotate` returns it.

    Raises:
        ValueError: A mask and the image differ in size.
    """
    drawing, strips = enlarge(image), []
    for prediction, class_names in sorted(predictions, key=lambda each: _LAYERS.index(type(each[0]))):
        if isinstance(prediction, Segmentation):
            drawing, legend = draw_regions(drawing, image.shape[:2], prediction.mask, class_names)
            strips.append(legend)
        elif isinstance(prediction, Detections):
            shown = prediction.at_least(min_score)
            tags = _tags(shown, class_names)
            if shown.then is not None:
                tags = [", ".join(both) for both in zip(tags, _tags(shown.then, then_class_names), strict=True)]
            drawing = draw_boxes(drawing, image.shape[:2], shown.boxes, shown.class_ids.tolist(), tags)
        else:
            best = zip(prediction.class_ids[:BEST].tolist(), prediction.scores[:BEST].tolist(), strict=True)
            rows = [(class_id, f"{score:.1%}", score) for class_id, score in best]
            strips.append(list_classes(drawing, rows, class_names))
    return stack([drawing, *strips])


def _tags(found: Detections | BoxClasses, class_names: Sequence[str]) -> list[str]:
    ranked = zip(found.class_ids.tolist(), found.scores.tolist(), strict=True)
    return [f"{class_names[class_id]} {score:.2f}" for class_id, score in ranked]


def annotate_ground_truth(sample: Sample, class_names: Sequence[str]) -> Image:
    """Draws the ground truth of a sample as :func:`annotate` draws predictions, but without scores.

    Raises:
        ValueError: The sample has no ground truth.
    """
    drawing, size = enlarge(sample.image), sample.image.shape[:2]
    if sample.mask is not None:
        return stack(draw_regions(drawing, size, sample.mask, class_names))
    if sample.boxes is not None and sample.labels is not None and sample.crowd is not None:
        class_ids = sample.labels.tolist()
        tags = [
            f"{class_names[i]} (crowd)" if crowd else class_names[i]
            for i, crowd in zip(class_ids, sample.crowd.tolist(), strict=True)
        ]
        return draw_boxes(drawing, size, sample.boxes, class_ids, tags)
    if sample.label is not None:
        return stack([drawing, list_classes(drawing, [(sample.label, "", 0.0)], class_names)])
    raise ValueError(f"{sample.image_id} has neither label nor boxes nor mask")


def next_to_ground_truth(
    sample: Sample, prediction: Prediction, class_names: Sequence[str], min_score: float = DRAW_MIN_SCORE
) -> Image:
    """Draws the ground truth on the left and the prediction on the right, with a caption above each.

    Raises:
        ValueError: The sample has no ground truth.
    """
    drawings = [annotate_ground_truth(sample, class_names), annotate(sample.image, prediction, class_names, min_score)]
    font = fitting_font(enlarge(sample.image))
    captioned = [
        stack([text_panel(drawing.shape[1], font, caption), drawing])
        for drawing, caption in zip(drawings, ("ground truth", "prediction"), strict=True)
    ]
    gap = margin_of(font)
    height = max(drawing.shape[0] for drawing in captioned)
    left, right = (pad(drawing, height, drawing.shape[1]) for drawing in captioned)
    return np.hstack([pad(left, height, left.shape[1] + gap), right])


def contact_sheet(images: Sequence[Image], columns: int = 4, cell: int = 1280) -> Image:
    """Arranges images of any sizes in rows, from left to right.

    Args:
        images: The images.
        columns: Number of images in a row.
        cell: Longest side in pixels; larger images are scaled down.

    Raises:
        ValueError: There is no image, or ``columns`` is below 1.
    """
    if not images or columns < 1:
        raise ValueError(f"a sheet needs images and columns, got {len(images)} and {columns}")
    gap = 8
    fitted = [scale(image, min(1.0, cell / max(image.shape[:2]))) for image in images]
    widths = [max(image.shape[1] for image in fitted[i::columns]) for i in range(min(columns, len(fitted)))]
    rows = []
    for start in range(0, len(fitted), columns):
        row = fitted[start : start + columns]
        height = max(image.shape[0] for image in row)
        rows.append(np.hstack([pad(image, height + gap, widths[i] + gap) for i, image in enumerate(row)]))
    return stack(rows)[:-gap, :-gap]
