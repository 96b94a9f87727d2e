"""Evaluators by name: the usual one of each task, and one that is registered anew."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import create_source
from mbv2kit.errors import UserError
from mbv2kit.evaluation import EVALUATORS, Evaluator, Scores, create_evaluator
from mbv2kit.evaluation.run import evaluate_model
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS, Classification, Sample
from mbv2kit.training.parts import training_parts


class Confidence(Evaluator):
    """Share of the images whose first class is surer than a limit."""

    task = "classification"

    def __init__(self, class_names: Sequence[str], limit: float = 0.5) -> None:
        self.images, self._sure, self._limit = 0, 0, limit

    def update(self, prediction: Classification, ground_truth: Sample) -> None:
        self.images += 1
        self._sure += int(prediction.scores[0] > self._limit)

    def compute(self) -> Scores:
        return Scores({"sure": self._sure / max(1, self.images)}, {})

    def save_plots(self, directory: Path) -> list[Path]:
        return []


@pytest.fixture
def confidence(add_part: Callable[..., None]) -> None:
    """Registers one more evaluator for one test."""
    add_part(EVALUATORS, "confidence", Confidence)


def test_each_task_has_an_evaluator() -> None:
    assert {EVALUATORS.get_class(name).task for name in EVALUATORS.names()} == set(TASKS)
    for task in TASKS:
        assert create_evaluator(task, ["a"]).task == task


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "mean_iou"}, r"evaluator 'mean_iou' measures segmentation, but the task is classification\."),
        ({"name": "acuracy"}, r"There is no evaluator 'acuracy'\. Did you mean 'accuracy'\?"),
        ({"name": "accuracy", "top": 3}, r"evaluator 'accuracy' has no option 'top'\."),
        ({"top": 3}, r"evaluator\.name must be one of accuracy, average_precision, mean_iou, got None\."),
    ],
)
def test_a_wrong_config_is_told(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_evaluator("classification", ["a"], config)


@pytest.mark.usefixtures("confidence")
def test_its_options_are_keys_of_training_and_evaluation(root: Path) -> None:
    register_parts(root / "conf", training_parts())
    for command in ("train", "eval"):
        assert compose_config(root / "conf", command).evaluator is None
        config = compose_config(root / "conf", command, ["evaluator=confidence", "evaluator.limit=0.25"])
        assert config.evaluator == {"name": "confidence", "limit": 0.25}


@pytest.mark.usefixtures("confidence")
@pytest.mark.parametrize(("limit", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_an_evaluation_writes_its_metrics(tmp_path: Path, limit: float, share: float) -> None:
    source = create_source("shapes", task="classification", split="val", size=64, val_count=3)
    model = VisionModel(
        ModelSpec(
            backbone={"name": "mobilenet_v2", "width": 0.1},
            heads={"classification": {"name": "classifier"}},
            class_names={"classification": source.class_names},
            input=Preprocess((32, 32)),
        )
    ).eval()
    _, scores = evaluate_model(
        as_trained(model),
        Joined({"classification": source}),
        dataset="shapes",
        split="val",
        claim=lambda: RunFolder(tmp_path),
        batch_size=2,
        workers=0,
        evaluator={"name": "confidence", "limit": limit},
    )
    assert scores.metrics == {"sure": share}
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert (content["metrics"], content["images"]) == ({"sure": share}, 3)
