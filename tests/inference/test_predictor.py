from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.inference.predictor import Predictor, Seen, Unreadable, load_model
from mbv2kit.runs import chosen_checkpoint, find_model
from mbv2kit.structures import Classification, Image, Prediction, Task


class MeanModel:
    """Scores each picture with its mean, and remembers how many came at a time."""

    def __init__(self) -> None:
        self.class_names: dict[Task, tuple[str, ...]] = {"classification": ("bright",)}
        self.batches: list[int] = []

    def predict(self, images: Sequence[Image]) -> list[dict[Task, Prediction]]:
        self.batches.append(len(images))
        scores = [np.array([image.mean() / 255], dtype=np.float32) for image in images]
        return [{"classification": Classification(np.array([0]), score)} for score in scores]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five pictures of rising brightness and size; the second and the last are none."""
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(files):
        PillowImage.new("RGB", (10 + i, 20), (50 * i,) * 3).save(path)
    files[1].write_text("no picture")
    files[4].unlink()
    return files


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1, 1, 1]), (2, [1, 2]), (3, [2, 1]), (8, [3])])
def test_results_come_in_order_whatever_the_batch(paths: list[Path], batch_size: int, batches: list[int]) -> None:
    model = MeanModel()
    results = list(Predictor(model, batch_size).predict(paths))
    assert [result.path for result in results] == paths
    assert [type(result) for result in results] == [Seen, Unreadable, Seen, Seen, Unreadable]
    for i, result in enumerate(results):
        if isinstance(result, Seen):
            assert result.image.shape == (20, 10 + i, 3)
            prediction = result.predictions["classification"]
            assert isinstance(prediction, Classification)
            assert prediction.scores[0] == np.float32(50 * i / 255)
    assert model.batches == batches


def test_the_model_is_not_asked_about_nothing(paths: list[Path]) -> None:
    model = MeanModel()
    (result,) = Predictor(model).predict(paths[1:2])
    assert isinstance(result, Unreadable)
    assert str(paths[1]) in result.error
    assert model.batches == []


def test_pictures_are_read_as_they_are_asked_for(paths: list[Path]) -> None:
    model = MeanModel()
    results = Predictor(model, batch_size=1).predict(paths)
    next(results)
    assert model.batches == [1]


def test_a_batch_holds_at_least_one_picture() -> None:
    with pytest.raises(UserError, match="batch_size must be a whole number from 1 up, got 0"):
        Predictor(MeanModel(), batch_size=0)


@pytest.mark.parametrize("place", ["run/model", "run", "run/model/model.json", "run/model/model.safetensors"])
def test_a_checkpoint_is_a_run_or_a_model(tmp_path: Path, place: str) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model.json").touch()
    assert find_model(str(tmp_path / place), None) == tmp_path / "run" / "model"


def test_what_is_no_model_of_ours_is_none(tmp_path: Path) -> None:
    assert find_model(str(tmp_path / "nowhere"), None) is None
    assert find_model(str(tmp_path), None) is None
    (tmp_path / "model.json").touch()
    assert find_model(str(tmp_path / "other.pth"), None) is None


def test_two_names_for_one_model_are_a_sentence() -> None:
    assert chosen_checkpoint("a", None) == chosen_checkpoint(None, "a") == "a"
    assert chosen_checkpoint(None, None) is None
    with pytest.raises(UserError, match="checkpoint=a and weights=b both name a model"):
        chosen_checkpoint("a", "b")


def test_without_a_checkpoint_the_newest_run_of_the_task_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("outputs", "detection", "voc", "a")
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.json").touch()
    (run / "metrics.json").write_text('{"task": "detection"}')
    assert find_model(None, "detection") == find_model(None, None) == run / "model"
    with pytest.raises(UserError, match="no finished segmentation run"):
        find_model(None, "segmentation")


def test_a_damaged_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"model\.json"):
        load_model(str(tmp_path))
