"""Classification: top-1 and top-5 accuracy, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.evaluation.classes import check_ground_truth, check_prediction, share, unique_names
from mbv2kit.evaluation.counts import ConfusionMatrix, Counts
from mbv2kit.evaluation.evaluators.base import EVALUATORS, Evaluator
from mbv2kit.evaluation.scores import Scores
from mbv2kit.structures import Classification, Sample


@EVALUATORS.register("accuracy")
class Accuracy(Evaluator):
    """Counts how often the true class is the first prediction, or among the first five.

    With five classes or fewer, ``top5`` is always 1.

    Args:
        class_names: The data set's classes, in the order of their ids.
    """

    task = "classification"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = unique_names(class_names)
        self.images = 0
        self._confusion = ConfusionMatrix(len(class_names))
        self._among_five = Counts(2)  # images where it is not, and where it is

    def update(self, prediction: Classification, ground_truth: Sample) -> None:
        """Adds one image.

        Args:
            prediction: At least the five most likely classes, or all if there are fewer, most likely first.
            ground_truth: The sample with its ``label``.

        Raises:
            UserError: A class id is not in the data set.
        """
        if ground_truth.label is None:
            raise ValueError(f"{ground_truth.image_id}: a sample without a label cannot be evaluated")
        five = prediction.class_ids[:5]
        check_ground_truth(ground_truth.label, len(self.class_names), ground_truth.image_id)
        check_prediction(five, len(self.class_names), ground_truth.image_id)
        self.images += 1
        self._confusion.update([ground_truth.label], five[:1])
        self._among_five.update([int(ground_truth.label in five)])

    def compute(self) -> Scores:
        """Returns ``top1`` and ``top5``; per class ``top1``, NaN without images, and the number of ``images``."""
        matrix = self._confusion.matrix()
        right, images = matrix.diagonal(), matrix.sum(axis=1)
        return Scores(
            metrics={
                "top1": float(share(right.sum(), images.sum())),
                "top5": float(share(self._among_five.array()[1], images.sum())),
            },
            per_class={
                name: {"top1": top1, "images": count}
                for name, top1, count in zip(
                    self.class_names, share(right, images).tolist(), images.tolist(), strict=True
                )
            },
        )

    def save_plots(self, directory: Path) -> list[Path]:
        """Draws the confusion matrix into ``directory`` and returns the files."""
        from mbv2kit.evaluation import plots

        return [plots.confusion_matrix(self._confusion.matrix(), self.class_names, directory / "confusion_matrix.png")]
