from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import (
    DataModule,
    EvaluationBatch,
    TrainingBatch,
    collate_training,
    evaluation_loader,
)
from mbv2kit.data.joined import Joined
from mbv2kit.data.order import EpochSampler
from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Sample, Task

PREPROCESS = Preprocess(size=(48, 40), resize="stretch")
Make = Callable[..., DataModule]


def shapes(task: Task = "detection", split: str = "train", count: int = 11) -> Source:
    return create_source("shapes", task=task, split=split, size=64, train_count=count, val_count=count)


@pytest.fixture
def make() -> Make:
    def build(
        task: Task = "detection", *, train: int = 11, val: int = 7, batch_size: int = 4, workers: int = 0, seed: int = 0
    ) -> DataModule:
        return DataModule(
            Joined({task: shapes(task, "train", train)}),
            Joined({task: shapes(task, "val", val)}),
            augment=create_augment({"preset": task}, PREPROCESS),
            preprocess=PREPROCESS,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
        )

    return build


def epoch(data: DataModule, number: int) -> list[TrainingBatch]:
    data.start_epoch(number)
    batches: Any = data.train_dataloader()
    return list(batches)


def ids(batches: list[TrainingBatch]) -> list[str]:
    return [image_id for batch in batches for image_id in batch.image_ids]


def assert_equal(left: list[TrainingBatch], right: list[TrainingBatch]) -> None:
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        assert ours.image_ids == theirs.image_ids
        assert torch.equal(ours.images, theirs.images)
        assert ours.targets.keys() == theirs.targets.keys()
        for task, targets in ours.targets.items():
            assert targets.keys() == theirs.targets[task].keys()
            for key, value in targets.items():
                other = theirs.targets[task][key]
                pairs = zip(value, other, strict=True) if isinstance(value, list) else [(value, other)]
                assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


# Order.


@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    number=st.integers(0, 500),
    start=st.integers(0, 60),
)
def test_an_epoch_holds_no_image_twice_and_a_late_start_only_skips(
    count: int, batch_size: int, seed: int, number: int, start: int
) -> None:
    sampler = EpochSampler([count], [batch_size], seed)
    sampler.epoch = number
    whole = list(sampler)
    assert len(whole) == len(sampler) == count // min(batch_size, count) >= 1
    assert {len(batch) for batch in whole} == {min(batch_size, count)}
    keys = [key for batch in whole for key in batch]
    assert {key[0] for key in keys} == {number}
    indices = [key[1] for key in keys]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(count))
    sampler.start = start
    assert list(sampler) == whole[start:]


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = set()
    for seed in (0, 1):
        for number in range(3):
            sampler = EpochSampler([50], [10], seed)
            sampler.epoch = number
            orders.add(tuple(index for batch in sampler for _, index in batch))
    assert len(orders) == 6


def test_dropped_samples_change_from_epoch_to_epoch(make: Make) -> None:
    data = make(train=11, batch_size=4)
    assert data.steps_per_epoch == 2
    left_out = [set(range(11)) - {int(name[-5:]) for name in ids(epoch(data, number))} for number in range(4)]
    assert all(len(each) == 3 for each in left_out)
    assert set.union(*left_out) > left_out[0]


# Samples.


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_batch_is_a_function_of_seed_and_epoch_in_any_process(make: Make, task: Task) -> None:
    alone = make(task)
    first, second = epoch(alone, 0), epoch(alone, 1)
    np.random.seed(5)
    torch.manual_seed(5)
    helped = make(task, workers=2)
    # The second epoch first: nothing depends on earlier batches.
    assert_equal(epoch(helped, 1), second)
    assert_equal(epoch(helped, 0), first)
    other = epoch(make(task, seed=1), 0)
    assert not any(torch.equal(ours.images, theirs.images) for ours, theirs in zip(first, other, strict=True))


def test_an_image_is_augmented_anew_each_epoch(make: Make) -> None:
    data = make("classification", train=4)
    images = [dict(zip(batch.image_ids, batch.images, strict=True)) for n in (0, 1) for batch in epoch(data, n)]
    assert images[0].keys() == images[1].keys()
    assert not any(torch.equal(images[0][name], images[1][name]) for name in images[0])


def test_a_resumed_epoch_goes_on_and_the_next_is_whole(make: Make) -> None:
    whole = make(train=16)
    resumed = make(train=16)
    resumed.load_state_dict({"epoch": 2, "start": 3})
    assert_equal(epoch(resumed, 2), epoch(whole, 2)[3:])
    assert_equal(epoch(resumed, 3), epoch(whole, 3))


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classification", {"size", "label"}),
        ("detection", {"size", "boxes", "labels", "crowd"}),
        ("segmentation", {"size", "mask"}),
    ],
)
def test_a_batch_holds_the_ground_truth_of_its_task(make: Make, task: Task, keys: set[str]) -> None:
    batch = epoch(make(task), 0)[0]
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, 48, 40), torch.uint8)
    assert list(batch.targets) == [task]
    assert batch.rows == {}
    targets = batch.targets[task]
    assert targets.keys() == keys
    assert targets["size"] == (48, 40)
    if task == "classification":
        assert (targets["label"].shape, targets["label"].dtype) == ((4,), torch.int64)
    elif task == "segmentation":
        assert (targets["mask"].shape, targets["mask"].dtype) == ((4, 48, 40), torch.uint8)
    else:
        for boxes, labels, crowd in zip(*(targets[key] for key in ("boxes", "labels", "crowd")), strict=True):
            assert boxes.shape == (len(labels), 4)
            assert (boxes.dtype, labels.dtype, crowd.dtype) == (torch.float32, torch.int64, torch.bool)


def test_images_without_objects_stay_in_the_batch() -> None:
    blank = np.zeros((8, 8, 3), dtype=np.uint8)
    empty = Sample(image=blank, image_id="a", boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64))
    full = Sample(image=blank, image_id="b", boxes=np.array([[1, 2, 3, 4]], np.float32), labels=np.array([5]))
    batch = collate_training([empty, full])
    assert [boxes.shape for boxes in batch.targets["detection"]["boxes"]] == [(0, 4), (1, 4)]
    assert [labels.tolist() for labels in batch.targets["detection"]["labels"]] == [[], [5]]


def test_a_batch_moves_as_a_whole(make: Make) -> None:
    moved = epoch(make(), 0)[0].to(torch.device("meta"))
    assert moved.images.is_meta
    assert moved.targets["detection"]["size"] == (48, 40)
    assert all(tensor.is_meta for key in ("boxes", "labels", "crowd") for tensor in moved.targets["detection"][key])


# Evaluation.


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (4, 2), (50, 0)])
def test_evaluation_gives_every_image_once_in_order(batch_size: int, workers: int) -> None:
    source = shapes(split="val", count=7)
    loader: Any = evaluation_loader(Joined({"detection": source}), PREPROCESS, batch_size, workers)
    batches: list[EvaluationBatch] = list(loader)
    assert max(len(batch.images) for batch in batches) == min(batch_size, 7)
    index = 0
    for batch in batches:
        assert len(batch.images) == len(batch.placements) == len(batch.samples)
        for image, placement, sample in zip(batch.images, batch.placements, batch.samples, strict=True):
            expected, where = PREPROCESS(source[index].image)
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
            assert placement == where
            assert sample.image_id == source[index].image_id
            index += 1
    assert index == 7


def test_validation_reads_the_validation_split(make: Make) -> None:
    loader: Any = make(val=7).val_dataloader()
    assert [sample.image_id for batch in loader for sample in batch.samples] == [f"val_{i:05d}" for i in range(7)]


# Limits.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "loader.batch_size is 1 and the training split has 11 images; both must be at least 2"),
        ({"train": 1}, "loader.batch_size is 4 and the training split has 1 images"),
        ({"workers": -1}, "loader.workers must be at least 0, got -1"),
    ],
)
def test_a_number_out_of_range_is_reported(make: Make, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


class Nothing(Source):
    class_names = ("a",)

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Sample:
        raise IndexError(index)


def test_an_empty_validation_split_is_reported() -> None:
    augment = create_augment({"preset": "none"}, PREPROCESS)
    with pytest.raises(UserError, match="The validation split holds no image"):
        DataModule(
            Joined({"detection": shapes()}),
            Joined({"detection": Nothing()}),
            augment=augment,
            preprocess=PREPROCESS,
            batch_size=2,
            workers=0,
            seed=0,
        )


def test_a_batch_larger_than_the_split_takes_the_whole_split(make: Make) -> None:
    data = make(train=5, batch_size=100)
    assert data.steps_per_epoch == 1
    assert sorted(ids(epoch(data, 0))) == [f"train_{i:05d}" for i in range(5)]
