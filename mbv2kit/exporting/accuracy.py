"""Measures the accuracy of a model before and after its export, on the same images of a validation split."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from mbv2kit.data.joined import Joined, has_ground_truth
from mbv2kit.evaluation import Scores, create_evaluator
from mbv2kit.inference.predictor import Predictor
from mbv2kit.structures import Task

# The main metric of each task, which training monitors too.
MAIN_METRIC: dict[Task, str] = {"classification": "top1", "detection": "AP", "segmentation": "mIoU"}
_IMAGES_AT_A_TIME = 16


def score(predictor: Predictor, images: Joined, indices: Sequence[int]) -> dict[str, Scores]:
    """Scores a model on some images, which have the model's classes, for each head that they have ground truth for."""
    evaluators = {head: create_evaluator(images.tasks[head], names) for head, names in images.class_names.items()}
    for start in range(0, len(indices), _IMAGES_AT_A_TIME):
        samples = [images[i] for i in indices[start : start + _IMAGES_AT_A_TIME]]
        inputs, placements = zip(*(predictor.preprocess(sample.image) for sample in samples), strict=True)
        predicted = predictor.predict_inputs(np.stack(inputs), placements)
        for predictions, sample in zip(predicted, samples, strict=True):
            for head, evaluator in evaluators.items():
                if has_ground_truth(sample, head, images.tasks[head]):
                    evaluator.update(predictions[head], sample)
    return {head: evaluator.compute() for head, evaluator in evaluators.items()}


def loss(task: Task, before: Scores, after: Scores) -> float:
    """Returns by how much the main metric falls, in 0..1; negative if it rises."""
    return before.metrics[MAIN_METRIC[task]] - after.metrics[MAIN_METRIC[task]]


def print_side_by_side(console: Console, before: Scores, after: Scores, headings: tuple[str, str], title: str) -> None:
    """Prints every metric before and after, and the difference."""
    table = Table("metric", *headings, "difference", title=title, title_justify="left")
    for name, value in before.metrics.items():
        cells = (f"{value:.4f}", f"{after.metrics[name]:.4f}", f"{after.metrics[name] - value:+.4f}")
        # A metric that the data have nothing for is NaN.
        table.add_row(name, *("-" if "nan" in cell else cell for cell in cells))
    console.print(table)
