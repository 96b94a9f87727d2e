"""The census of a split, against samples counted one by one, and what it says."""

from collections.abc import Sequence

import numpy as np
import pytest

from mbv2kit.data.align import align_classes
from mbv2kit.data.census import check_classes, take_census
from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from mbv2kit.structures import TASKS, Sample, Task

IMAGE = np.zeros((2, 2, 3), dtype=np.uint8)


class Given(Source):
    """Samples that are given, which counts how many are read."""

    def __init__(self, samples: Sequence[Sample], class_names: Sequence[str] = ("background", "crack")) -> None:
        self.class_names = tuple(class_names)
        self._samples = samples
        self.read: set[int] = set()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        self.read.add(index)
        return self._samples[index]


def masked(*values: int) -> Sample:
    return Sample(image=IMAGE, image_id="a", mask=np.array(values, dtype=np.uint8).reshape(2, 2))


def boxed(labels: Sequence[int], crowd: Sequence[bool] | None = None) -> Sample:
    return Sample(
        image=IMAGE,
        image_id="a",
        boxes=np.tile(np.array([0, 0, 1, 1], np.float32), (len(labels), 1)),
        labels=np.array(labels, dtype=np.int64),
        crowd=None if crowd is None else np.array(crowd, dtype=np.bool_),
    )


def labeled(*labels: int) -> list[Sample]:
    return [Sample(image=IMAGE, image_id="a", label=label) for label in labels]


@pytest.mark.parametrize("task", TASKS)
def test_every_class_is_counted(task: Task) -> None:
    source = create_source("shapes", task=task, split="val", size=64, val_count=5)
    census = take_census(align_classes(source, source.class_names[::-1]))
    expected = np.zeros(len(source.class_names), dtype=np.int64)
    for index in range(5):
        sample = source[index]
        found = sample.labels if task == "detection" else sample.label if sample.mask is None else sample.mask
        expected += np.bincount(np.reshape(np.asarray(found), -1), minlength=len(expected))
    assert census.counts.tolist() == expected[::-1].tolist()
    assert (census.ignored, census.images) == (0, 5)


@pytest.mark.parametrize(
    ("task", "samples", "message"),
    [
        ("detection", [boxed([])] * 3, r"its 3 images hold no object of any class; check the annotations\.$"),
        ("detection", [boxed([1, 0], [True, True])], r"no object of any class, only 2 that are crowds or ignored;"),
        ("segmentation", [masked(255, 255, 255, 255)], r"no pixel of any class; 100 % of the pixels are void \(255\);"),
        (
            "segmentation",
            [masked(0, 0, 0, 255), masked(0, 0, 0, 0)],
            r"all of its 2 images hold class 'background' and no other; 12 % of the pixels are void \(255\); expected",
        ),
        ("classification", labeled(1, 1), r"all of its 2 images hold class 'crack' and no other; expected at least"),
    ],
)
def test_data_that_teach_nothing_are_refused_and_cannot_be_scored(
    task: Task, samples: list[Sample], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = Given(samples)
    with pytest.raises(UserError, match=r"^The split 'train' cannot be trained on: .*" + message):
        check_classes(source, task, "train", trains=True)
    check_classes(source, task, "val", trains=False)
    (said,) = caplog.messages
    assert said.startswith("The split 'val' cannot be scored: ")


@pytest.mark.parametrize(
    ("task", "samples", "expected"),
    [
        ("detection", [boxed([1, 1, 0], [False, False, True])], "1 of 2 classes occur in no object of"),
        ("classification", labeled(0, 2), "1 of 3 classes occur in no image of"),
        ("segmentation", [masked(0, 0, 1, 255)], "1 of 3 classes occur in no mask of"),
    ],
)
def test_classes_that_never_occur_are_named(
    task: Task, samples: list[Sample], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a", "b", "c")[: 2 if task == "detection" else 3]
    check_classes(Given(samples, names), task, "train", trains=True)
    (said,) = caplog.messages
    missing = {"detection": "a", "classification": "b", "segmentation": "c"}[task]
    assert said.startswith(f"{expected} the split 'train': {missing}")
    assert ("25 % of the pixels are void (255)" in said) == (task == "segmentation")


@pytest.mark.parametrize(
    ("task", "samples"),
    [("detection", [boxed([1, 0])]), ("classification", labeled(0, 1)), ("segmentation", [masked(0, 1, 1, 255)])],
)
def test_good_data_are_not_spoken_of(task: Task, samples: list[Sample], caplog: pytest.LogCaptureFixture) -> None:
    check_classes(Given(samples), task, "train", trains=True)
    assert caplog.messages == []


def test_much_void_is_told(caplog: pytest.LogCaptureFixture) -> None:
    check_classes(Given([masked(255, 255, 255, 0), masked(255, 255, 255, 1)]), "segmentation", "train", trains=True)
    assert caplog.messages == ["The split 'train': 75 % of the pixels are void (255)"]


def test_of_many_masks_a_sample_is_read_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    source = Given([masked(0, 1, 1, 0)] * 1000, ("a", "b", "c"))
    check_classes(source, "segmentation", "train", trains=True)
    assert len(source.read) == 200
    assert caplog.messages == [
        "1 of 3 classes occur in no mask of the 200 of 1000 images of the split 'train' that were looked at: c"
    ]


def test_before_many_masks_are_refused_all_are_read() -> None:
    samples = [masked(0, 0, 0, 0)] * 1000
    samples[501] = masked(0, 0, 0, 1)
    source = Given(samples)
    check_classes(source, "segmentation", "train", trains=True)
    assert 200 < len(source.read) < 1000
    source = Given(samples[:501])
    with pytest.raises(UserError, match="all of its 501 images hold class 'background'"):
        check_classes(source, "segmentation", "train", trains=True)


def test_one_class_is_enough_for_a_detector_and_for_a_list_of_one() -> None:
    check_classes(Given([boxed([0])], ["cell"]), "detection", "train", trains=True)
    check_classes(Given([masked(0, 0, 0, 0)], ["cell"]), "segmentation", "train", trains=True)
