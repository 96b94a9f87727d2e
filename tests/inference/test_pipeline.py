from collections.abc import Sequence
from pathlib import Path

import pytest

from mbv2kit.inference.pipeline import count_workers, process
from mbv2kit.inference.results import Result
from mbv2kit.inference.sources import Source


def predict(sources: Sequence[Source]) -> list[Result]:
    return [
        Result(path=Path(str(source)), size=(len(sources), 1), predictions={}, class_names={}) for source in sources
    ]


@pytest.mark.parametrize(
    ("batch_size", "batches"), [(1, [1] * 5), (2, [2, 2, 2, 2, 1]), (3, [3, 3, 3, 2, 2]), (9, [5] * 5)]
)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_finished_results_come_in_the_order_of_the_images(batch_size: int, batches: list[int], workers: int) -> None:
    paths = [Path(f"{i}.png") for i in range(5)]
    made = process([predict] * workers, paths, batch_size, lambda index, result: (index, result.path, result.size[0]))
    assert list(made) == list(zip(range(5), paths, batches, strict=True))


def test_without_images_nothing_is_predicted() -> None:
    assert list(process([predict], [], 1, lambda index, result: index)) == []


@pytest.mark.parametrize(
    ("cores", "images", "workers"), [(2, 1, 1), (2, 200, 2), (4, 3, 3), (1, 9, 1), (64, 1000, 8), (2, 0, 1)]
)
def test_there_are_as_many_workers_as_cores_and_images(cores: int, images: int, workers: int) -> None:
    assert count_workers(cores, images) == workers
