from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference.predictor import Predictor, Seen, Unreadable, count_workers
from mbv2kit.runs import chosen_checkpoint, find_model
from mbv2kit.structures import Classification, Prediction, Task


class MeanModel:
    """Scores each image with the mean of its input; all copies remember together how many came at a time."""

    def __init__(self, batch: int | None = None) -> None:
        self.input = Preprocess((8, 8))
        self.class_names: dict[Task, tuple[str, ...]] = {"classification": ("bright",)}
        self.batch = batch
        self.batches: list[int] = []
        self.copies = 0

    def copy(self) -> "MeanModel":
        copied = MeanModel(self.batch)
        copied.batches = self.batches
        self.copies += 1
        return copied

    def outputs(self, inputs: NDArray[np.uint8]) -> Any:
        assert inputs.shape[1:] == (8, 8, 3)
        self.batches.append(len(inputs))
        return inputs.mean(axis=(1, 2, 3), dtype=np.float32) / 255

    def read(self, outputs: Any, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        assert len(outputs) == len(placements)
        return [{"classification": Classification(np.array([0]), np.array([mean]))} for mean in outputs]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five images of rising brightness and size; the second and the last are none."""
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(files):
        PillowImage.new("RGB", (10 + i, 20), (50 * i,) * 3).save(path)
    files[1].write_text("no image")
    files[4].unlink()
    return files


@pytest.mark.parametrize(
    ("batch_size", "batches"), [(1, [1, 1, 1]), (2, [1, 2]), (3, [2, 1]), (8, [3]), (None, [1] * 3)]
)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_whatever_the_batch_and_the_workers(
    paths: list[Path], batch_size: int | None, batches: list[int], workers: int
) -> None:
    model = MeanModel()
    results = list(Predictor(model, batch_size, workers=workers).predict(paths))
    assert [result.path for result in results] == paths
    assert [type(result) for result in results] == [Seen, Unreadable, Seen, Seen, Unreadable]
    for i, result in enumerate(results):
        if isinstance(result, Seen):
            assert result.size == (20, 10 + i)
            prediction = result.predictions["classification"]
            assert isinstance(prediction, Classification)
            assert prediction.scores[0] == pytest.approx(50 * i / 255, abs=1e-6)
    assert sorted(model.batches) == sorted(batches)


def test_every_worker_but_the_first_has_a_copy() -> None:
    model = MeanModel()
    Predictor(model, workers=3)
    assert model.copies == 2


def test_a_batch_is_as_large_as_the_network_takes_unless_told_otherwise(paths: list[Path]) -> None:
    model = MeanModel(batch=2)
    list(Predictor(model).predict(paths))
    assert model.batches == [1, 2]


@pytest.mark.parametrize(
    ("cores", "images", "workers"), [(2, 1, 1), (2, 200, 2), (4, 3, 3), (1, 9, 1), (64, 1000, 8), (2, 0, 1)]
)
def test_there_are_as_many_workers_as_cores_and_images(cores: int, images: int, workers: int) -> None:
    assert count_workers(cores, images) == workers


def test_the_model_is_not_asked_about_nothing(paths: list[Path]) -> None:
    model = MeanModel()
    (result,) = Predictor(model).predict(paths[1:2])
    assert isinstance(result, Unreadable)
    assert str(paths[1]) in result.error
    assert model.batches == []


def test_a_single_worker_reads_images_as_they_are_asked_for(paths: list[Path]) -> None:
    model = MeanModel()
    results = Predictor(model, batch_size=1).predict(paths)
    next(results)
    assert model.batches == [1]


def test_what_is_made_of_a_result_is_made_in_the_place_of_its_path(paths: list[Path]) -> None:
    predictor = Predictor(MeanModel(), batch_size=2, workers=2)
    made = list(predictor.process(paths, lambda place, result: (place, result.path, isinstance(result, Seen))))
    assert made == list(zip(range(5), paths, [True, False, True, True, False], strict=True))
    assert all(predictor.stages.seconds[stage] > 0 for stage in ("reading", "network", "answers"))


def test_a_fault_of_the_model_ends_the_results_where_it_happened(paths: list[Path]) -> None:
    class Faulty(MeanModel):
        def copy(self) -> "Faulty":
            return self

        def outputs(self, inputs: NDArray[np.uint8]) -> Any:
            if inputs.mean() > 120:
                raise RuntimeError("worm")
            return super().outputs(inputs)

    results = Predictor(Faulty(), workers=2).predict(paths)
    assert [next(results).path for _ in range(3)] == paths[:3]
    with pytest.raises(RuntimeError, match="worm"):
        next(results)


@pytest.mark.parametrize("batch_size", [0, 1.5, "two"])
def test_a_batch_holds_at_least_one_image(batch_size: Any) -> None:
    with pytest.raises(UserError, match=f"batch_size must be a whole number from 1 up, or null .*, got {batch_size}"):
        Predictor(MeanModel(), batch_size=batch_size)


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
