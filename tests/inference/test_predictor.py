import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import UnreadableImageError, decode
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.result_list import Results
from mbv2kit.inference.results import Result
from mbv2kit.inference.stages import Stages
from mbv2kit.models.session import Session
from mbv2kit.models.spec import ModelSpec


class MeanPredictor(Predictor):
    """Scores each image with the mean of its input; all copies remember together what they were asked."""

    def __init__(self, batch: int | None = None, threads: int = 1) -> None:
        self.batches: list[int] = []
        self.sessions: list[int] = []
        self.callers: set[int] = set()
        spec = ModelSpec(backbone={}, heads={}, class_names={"classification": ("bright",)}, input=Preprocess((8, 8)))
        super().__init__(spec, self._open, threads=threads, batch=batch)

    def _open(self, threads: int) -> Session:
        self.sessions.append(threads)
        return self.run

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        assert images.shape[1:] == (8, 8, 3)
        self.batches.append(len(images))
        self.callers.add(threading.get_ident())
        return {"probabilities": images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / 255}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five images of rising brightness and size; the second and the last cannot be read."""
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(files):
        PillowImage.new("RGB", (10 + i, 20), (50 * i,) * 3).save(path)
    files[1].write_text("no image")
    files[4].unlink()
    return files


def check(results: Results, paths: list[Path]) -> None:
    found = list(results)
    assert [result.path for result in found] == paths
    assert [result.error is None for result in found] == [True, False, True, True, False]
    for i in (0, 2, 3):
        assert found[i].size == (20, 10 + i)
        assert found[i].scores[0] == pytest.approx(50 * i / 255, abs=1e-6)


# One image.


def test_a_path_a_string_an_array_and_a_pillow_image_give_the_same(paths: list[Path]) -> None:
    predictor, pixels = MeanPredictor(), decode(paths[3])
    with PillowImage.open(paths[3]) as opened:
        results = [predictor(image) for image in (paths[3], str(paths[3]), pixels, opened)]
    for result in results:
        assert isinstance(result, Result)
        assert result.scores[0] == pytest.approx(150 / 255, abs=1e-6)
        assert result.size == (20, 13)
        np.testing.assert_array_equal(result.image, pixels)
    assert [result.path for result in results] == [paths[3], paths[3], None, None]


def test_the_channels_of_an_opencv_frame_are_exchanged() -> None:
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    frame[..., 0] = 255
    result = MeanPredictor()(frame, bgr=True)
    assert result.image[0, 0].tolist() == [0, 0, 255]


def test_one_image_that_cannot_be_read_is_an_error(paths: list[Path]) -> None:
    predictor = MeanPredictor()
    with pytest.raises(UnreadableImageError, match=r"1\.png: this is not an image"):
        predictor(paths[1])
    with pytest.raises(UserError, match=r"https://example\.com/a\.jpg: an image must be a file on this machine"):
        predictor("https://example.com/a.jpg")
    with pytest.raises(UserError, match=r"4\.png: there is no such file"):
        predictor(str(paths[4]))
    assert predictor.batches == []


@pytest.mark.parametrize("min_score", [-0.1, 1.1, float("nan"), "0.5", None])
def test_a_score_is_a_number_in_0_to_1(min_score: Any) -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    result = MeanPredictor()(image)
    for call in (partial(MeanPredictor(), image), result.plot):
        with pytest.raises(UserError, match=rf"min_score must be in 0\.\.1, got {min_score!r}\."):
            call(min_score=min_score)


@pytest.mark.parametrize("count", [-1, 1.5, "2"])
def test_the_number_of_best_classes_is_a_whole_one(count: Any) -> None:
    result = MeanPredictor()(np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"top\(\) takes a whole number of classes from 0 up, got"):
        result.top(count)


# Several images.


@pytest.mark.parametrize(
    ("batch_size", "batches"), [(1, [1, 1, 1]), (2, [1, 2]), (3, [2, 1]), (8, [3]), (None, [1] * 3)]
)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_whatever_the_batch_and_the_threads(
    paths: list[Path], batch_size: int | None, batches: list[int], threads: int
) -> None:
    predictor = MeanPredictor(threads=threads)
    check(predictor(paths, batch_size=batch_size), paths)
    assert sorted(predictor.batches) == sorted(batches)


def test_a_folder_a_pattern_and_a_list_give_several(paths: list[Path]) -> None:
    predictor, folder = MeanPredictor(), paths[0].parent
    for images in (folder, str(folder), f"{folder}/*.png", [folder], (str(folder / "[0-3].png"),)):
        results = predictor(images)
        assert isinstance(results, Results)
        assert [result.path for result in results] == paths[:4]
    mixed = predictor([paths[0], decode(paths[2]), str(folder)])
    assert [result.path for result in mixed] == [paths[0], None, *paths[:4]]
    assert len(predictor([])) == 0
    assert list(predictor([])) == []


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no image in this folder"):
        MeanPredictor()(tmp_path)
    with pytest.raises(UserError, match="this pattern matches no image"):
        MeanPredictor()(str(tmp_path / "*.jpg"))


def test_nothing_is_computed_before_it_is_read(paths: list[Path]) -> None:
    predictor = MeanPredictor(threads=2)
    results = predictor(paths, batch_size=2)
    assert (len(results), predictor.batches, predictor.sessions) == (5, [], [2])
    assert repr(results) == "Results(5 images, computed as they are read)"
    assert results[3].scores[0] == pytest.approx(150 / 255, abs=1e-6)
    assert predictor.batches == [2]


def test_results_are_a_sequence(paths: list[Path]) -> None:
    results = MeanPredictor()(paths, batch_size=2)
    assert results[-2].path == paths[3]
    assert results[2] is results[3 - 1]
    check(results[:], paths)
    assert [result.path for result in results[1::2]] == paths[1::2]
    assert [result.path for result in reversed(results)] == paths[::-1]
    with pytest.raises(IndexError):
        results[5]


def test_only_the_batch_that_was_read_last_is_kept(paths: list[Path]) -> None:
    predictor = MeanPredictor()
    results = predictor(paths, batch_size=2)
    for index in (2, 3, 2, 0, 3):
        assert results[index].path == paths[index]
    assert predictor.batches == [2, 1, 2]


def test_several_threads_are_divided_among_copies_that_are_used_again(paths: list[Path]) -> None:
    predictor = MeanPredictor(threads=4)
    for _ in range(2):
        list(predictor(paths * 4))
        list(predictor(paths[2:4]))
    # Four images at a time on a thread each, two on two each.
    assert predictor.sessions == [4, 1, 1, 1, 1, 2, 2]
    assert threading.get_ident() not in predictor.callers


def test_two_lists_that_are_read_at_a_time_share_no_copy(paths: list[Path]) -> None:
    predictor = MeanPredictor(threads=2)
    for one, other in zip(predictor(paths), predictor(paths), strict=True):
        assert one.path == other.path
    assert predictor.sessions == [2, 1, 1, 1, 1]


def test_a_single_worker_reads_images_as_they_are_asked_for(paths: list[Path]) -> None:
    predictor = MeanPredictor()
    results = iter(predictor(paths))
    next(results)
    assert predictor.batches == [1]
    assert predictor.sessions == [1]


def test_a_batch_is_as_large_as_the_network_takes_unless_told_otherwise(paths: list[Path]) -> None:
    predictor = MeanPredictor(batch=2)
    list(predictor(paths))
    # A batch with fewer readable images is filled up.
    assert predictor.batches == [2, 2]


def test_the_model_does_not_run_without_images(paths: list[Path]) -> None:
    predictor = MeanPredictor()
    (result,) = predictor([paths[1]])
    assert result.error is not None
    assert str(paths[1]) in result.error
    assert predictor.batches == []


def test_an_error_of_the_model_ends_the_results_where_it_happens(paths: list[Path]) -> None:
    class Faulty(MeanPredictor):
        def run(self, images: NDArray[np.uint8]) -> Outputs:
            if images.mean() > 120:
                raise RuntimeError("worm")
            return super().run(images)

    results = iter(Faulty(threads=2)(paths))
    assert [next(results).path for _ in range(3)] == paths[:3]
    with pytest.raises(RuntimeError, match="worm"):
        next(results)


@pytest.mark.parametrize("batch_size", [0, 1.5, "two"])
def test_a_batch_holds_at_least_one_image(batch_size: Any) -> None:
    with pytest.raises(UserError, match=f"batch_size must be a whole number from 1 up, or null .*, got {batch_size!r}"):
        MeanPredictor()([], batch_size=batch_size)


def test_the_time_of_each_stage_is_added_up(paths: list[Path]) -> None:
    stages = Stages()
    assert len(MeanPredictor().predict(paths, stages=stages)) == 5
    assert all(stages.seconds[stage] > 0 for stage in ("reading", "network", "postprocessing"))
