from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.pipeline import Pipeline, Predicted, Unreadable, count_workers
from mbv2kit.inference.predictor import Predictor
from mbv2kit.models.session import Session
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Classification


class MeanPredictor(Predictor):
    """Scores each image with the mean of its input; all copies remember together how many came at a time."""

    def __init__(self, batch: int | None = None) -> None:
        self.batches: list[int] = []
        self.sessions = 0
        spec = ModelSpec(backbone={}, heads={}, class_names={"classification": ("bright",)}, input=Preprocess((8, 8)))
        super().__init__(spec, self._open, batch=batch)

    def _open(self) -> Session:
        self.sessions += 1
        return self.run

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        assert images.shape[1:] == (8, 8, 3)
        self.batches.append(len(images))
        return {"probabilities": images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / 255}


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
    predictor = MeanPredictor()
    results = list(Pipeline(predictor, batch_size, workers=workers).predict(paths))
    assert [result.path for result in results] == paths
    assert [type(result) for result in results] == [Predicted, Unreadable, Predicted, Predicted, Unreadable]
    for i, result in enumerate(results):
        if isinstance(result, Predicted):
            assert result.size == (20, 10 + i)
            prediction = result.predictions["classification"]
            assert isinstance(prediction, Classification)
            assert prediction.scores[0] == pytest.approx(50 * i / 255, abs=1e-6)
    assert sorted(predictor.batches) == sorted(batches)


def test_every_worker_but_the_first_has_a_copy() -> None:
    predictor = MeanPredictor()
    Pipeline(predictor, workers=3)
    assert predictor.sessions == 3


def test_a_batch_is_as_large_as_the_network_takes_unless_told_otherwise(paths: list[Path]) -> None:
    predictor = MeanPredictor(batch=2)
    list(Pipeline(predictor).predict(paths))
    # The second of five files is unreadable: the first batch is filled up.
    assert predictor.batches == [2, 2]


@pytest.mark.parametrize(
    ("cores", "images", "workers"), [(2, 1, 1), (2, 200, 2), (4, 3, 3), (1, 9, 1), (64, 1000, 8), (2, 0, 1)]
)
def test_there_are_as_many_workers_as_cores_and_images(cores: int, images: int, workers: int) -> None:
    assert count_workers(cores, images) == workers


def test_the_model_is_not_asked_about_nothing(paths: list[Path]) -> None:
    predictor = MeanPredictor()
    (result,) = Pipeline(predictor).predict(paths[1:2])
    assert isinstance(result, Unreadable)
    assert str(paths[1]) in result.error
    assert predictor.batches == []


def test_a_single_worker_reads_images_as_they_are_asked_for(paths: list[Path]) -> None:
    predictor = MeanPredictor()
    results = Pipeline(predictor, batch_size=1).predict(paths)
    next(results)
    assert predictor.batches == [1]


def test_what_is_made_of_a_result_is_made_in_the_place_of_its_path(paths: list[Path]) -> None:
    pipeline = Pipeline(MeanPredictor(), batch_size=2, workers=2)
    made = list(pipeline.process(paths, lambda place, result: (place, result.path, isinstance(result, Predicted))))
    assert made == list(zip(range(5), paths, [True, False, True, True, False], strict=True))
    assert all(pipeline.stages.seconds[stage] > 0 for stage in ("reading", "network", "postprocessing"))


def test_a_fault_of_the_model_ends_the_results_where_it_happened(paths: list[Path]) -> None:
    class Faulty(MeanPredictor):
        def run(self, images: NDArray[np.uint8]) -> Outputs:
            if images.mean() > 120:
                raise RuntimeError("worm")
            return super().run(images)

    results = Pipeline(Faulty(), workers=2).predict(paths)
    assert [next(results).path for _ in range(3)] == paths[:3]
    with pytest.raises(RuntimeError, match="worm"):
        next(results)


@pytest.mark.parametrize("batch_size", [0, 1.5, "two"])
def test_a_batch_holds_at_least_one_image(batch_size: Any) -> None:
    with pytest.raises(UserError, match=f"batch_size must be a whole number from 1 up, or null .*, got {batch_size}"):
        Pipeline(MeanPredictor(), batch_size=batch_size)
