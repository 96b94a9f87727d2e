"""Images of several tasks: joined by name, read once, and in batches whose targets are of those that have any."""

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import DataModule, collate_training
from mbv2kit.data.joined import Joined, has_ground_truth, open_joined
from mbv2kit.data.order import EpochSampler, in_step, share_out
from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from mbv2kit.imaging import images
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import TASKS, Sample, Task

USUAL: dict[str, Task] = {task: task for task in TASKS}
SHAPES: dict[str, Any] = {"name": "shapes", "root": None, "train_split": "train", "val_split": "val", "size": 64}


class Named(Source):
    """Images of one gray value each, in the order of their names, with the ground truth of one task."""

    class_names = ("a", "b")

    def __init__(self, task: Task, names: str, side: int = 8) -> None:
        self._task, self._names, self._side = task, names, side

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name, side = self._names[index], self._side
        truths: dict[str, dict[str, Any]] = {
            "classification": {"label": index},
            "detection": {"boxes": np.full((1, 4), index, np.float32), "labels": np.array([index])},
            "segmentation": {"mask": np.full((side, side), index, np.uint8)},
        }
        return Sample(image=np.full((side, side, 3), ord(name), np.uint8), image_id=name, **truths[self._task])


def test_images_of_one_data_set_are_joined_by_name() -> None:
    joined = Joined({"classification": Named("classification", "abc"), "segmentation": Named("segmentation", "cxa")})
    found = {joined[index].image_id: joined[index] for index in range(len(joined))}
    assert list(found) == ["a", "b", "c", "x"]
    assert joined.counts == (4,)
    assert {name: sample.label for name, sample in found.items()} == {"a": 0, "b": 1, "c": 2, "x": None}
    masks = {name: None if sample.mask is None else int(sample.mask[0, 0]) for name, sample in found.items()}
    assert masks == {"a": 2, "b": None, "c": 0, "x": 1}
    assert all(sample.image[0, 0, 0] == ord(name) for name, sample in found.items())
    with pytest.raises(IndexError):
        joined[4]


def test_images_of_several_data_sets_stay_apart() -> None:
    sources: dict[str, Source] = {
        "classification": Named("classification", "ab"),
        "detection": Named("detection", "bc"),
        "segmentation": Named("segmentation", "ba"),
    }
    joined = Joined(sources, [["classification", "segmentation"], ["detection"]])
    assert joined.counts == (2, 2)
    assert [joined[index].image_id for index in range(4)] == ["a", "b", "b", "c"]
    assert [joined[index].boxes is None for index in range(4)] == [True, True, False, False]


def test_an_image_of_two_sizes_is_a_sentence() -> None:
    joined = Joined({"classification": Named("classification", "a"), "detection": Named("detection", "a", side=9)})
    with pytest.raises(UserError, match=r"a: the image has 8 x 8 pixels for one task, 9 x 9 for detection; "):
        joined[0]


def test_a_file_is_read_once_for_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "classes.txt").write_text("background\ncell\n")
    for name in ("one", "two"):
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{name}.png"), np.full((12, 16, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / "SegmentationClass" / f"{name}.png"), np.ones((12, 16), np.uint8))
        (tmp_path / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>cell</name>{box}</object></annotation>"
        )
        for kind in ("Main", "Segmentation"):
            with (tmp_path / "ImageSets" / kind / "train.txt").open("a") as file:
                file.write(f"{name}\n")
    dataset = {"name": "voc", "root": str(tmp_path), "train_split": "train", "val_split": "train"}
    joined = open_joined({"detection": dataset, "segmentation": dataset}, USUAL, "train_split")
    assert len(joined) == 2
    read: Counter[str] = Counter()
    original = images.read_file
    monkeypatch.setattr(images, "read_file", lambda path: read.update([Path(path).stem]) or original(path))
    sample = joined[1]
    assert read == {"two": 1}
    assert sample.boxes is not None
    assert sample.mask is not None
    assert (sample.boxes.tolist(), sample.mask.max()) == ([[1, 2, 9, 9]], 1)
    # Outside of it, every call reads.
    joined.sources["detection"][1]
    joined.sources["detection"][1]
    assert read == {"two": 3}


@pytest.mark.parametrize("task", TASKS)
def test_names_are_those_of_the_samples(task: Task) -> None:
    source = create_source("shapes", task=task, split="val", size=64, val_count=3)
    assert list(source.image_names()) == [source[index].image_id for index in range(3)]


def test_heads_of_one_task_have_images_of_their_own() -> None:
    tasks: dict[str, Task] = {"color": "classification", "kind": "classification", "parts": "segmentation"}
    datasets = {"color": SHAPES, "kind": SHAPES, "parts": SHAPES}
    joined = open_joined(datasets, tasks, "val_split")
    assert joined.together == [["color", "parts"], ["kind"]]
    first, other = joined[0], joined[300]
    assert (first.heads, other.heads) == (
        {"classification": "color", "segmentation": "parts"},
        {"classification": "kind"},
    )
    assert first.image_id == other.image_id
    assert [has_ground_truth(first, head, tasks[head]) for head in tasks] == [True, False, True]
    assert [has_ground_truth(other, head, tasks[head]) for head in tasks] == [False, True, False]
    assert not has_ground_truth(first, "classification", "classification")
    # Each head gets the targets of its own images.
    augment = create_augment({"preset": "none"}, Preprocess((64, 64)))
    samples = [augment(joined[index], np.random.default_rng(0)) for index in (0, 300, 1, 301, 2)]
    batch = collate_training(samples)
    assert {head: rows.tolist() for head, rows in batch.rows.items()} == {
        "color": [0, 2, 4],
        "kind": [1, 3],
        "parts": [0, 2, 4],
    }
    assert batch.targets["kind"]["label"].tolist() == [samples[1].label, samples[3].label]
    assert batch.targets["parts"]["mask"].shape == (3, 64, 64)


def test_equal_data_sets_share_images_and_others_do_not() -> None:
    other = SHAPES | {"seed": 1}
    joined = open_joined({"classification": SHAPES, "detection": other, "segmentation": SHAPES}, USUAL, "val_split")
    assert joined.together == [["classification", "segmentation"], ["detection"]]
    assert joined.counts == (300, 300)


# Batches.


def test_targets_are_of_the_images_that_have_them() -> None:
    joined = Joined({"classification": Named("classification", "ab"), "segmentation": Named("segmentation", "bc")})
    batch = collate_training([joined[index] for index in range(3)])
    assert list(batch.targets) == ["classification", "segmentation"]
    assert {task: rows.tolist() for task, rows in batch.rows.items()} == {
        "classification": [0, 1],
        "segmentation": [1, 2],
    }
    assert batch.targets["classification"]["label"].tolist() == [0, 1]
    assert batch.targets["segmentation"]["mask"][:, 0, 0].tolist() == [0, 1]


def test_a_batch_splits_into_its_data_sets() -> None:
    sources: dict[str, Source] = {
        "classification": Named("classification", "ab"),
        "segmentation": Named("segmentation", "bc"),
        "detection": Named("detection", "de"),
    }
    joined = Joined(sources, [["classification", "segmentation"], ["detection"]])
    batch = collate_training([joined[index] for index in range(5)])
    first, second = batch.split((3, 2))
    assert (first.image_ids, second.image_ids) == (["a", "b", "c"], ["d", "e"])
    assert (list(first.targets), list(second.targets)) == (["classification", "segmentation"], ["detection"])
    assert {task: rows.tolist() for task, rows in first.rows.items()} == {
        "classification": [0, 1],
        "segmentation": [1, 2],
    }
    assert second.rows == {}
    assert torch.equal(torch.cat([first.images, second.images]), batch.images)


def test_a_small_data_set_starts_over_until_the_large_one_is_through() -> None:
    sampler = EpochSampler([12, 5], [3, 2], seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4
    assert all([place[1] < 12 for place in batch] == [True] * 3 + [False] * 2 for batch in batches)
    large = [place for batch in batches for place in batch[:3]]
    assert sorted(large) == [(0, index) for index in range(12)]
    small = [place for batch in batches for place in batch[3:]]
    assert sorted(small[:5]) == [(0, index) for index in range(12, 17)]
    # A place that comes again is another one to augmentation.
    assert [place[2:] for place in small[5:]] == [(1,)] * 3
    assert len(set(small)) == len(small) == 8
    sampler.start = 3
    assert list(sampler) == batches[3:]


@pytest.mark.parametrize(
    ("batch_size", "ratio", "shares"),
    [
        (8, (1,), (8,)),
        (8, (1, 1), (4, 4)),
        (9, (1, 1), (5, 4)),
        (10, (2, 1), (7, 3)),
        (8, (3, 1), (6, 2)),
        (8, (2, 1, 1), (4, 2, 2)),
        (64, (7, 1), (56, 8)),
        (32, (10, 1), (29, 3)),
        (6, (100, 1, 1), (2, 2, 2)),
        (9, (100, 1, 1), (5, 2, 2)),
    ],
)
def test_a_batch_is_shared_out_by_the_ratio(batch_size: int, ratio: tuple[float, ...], shares: tuple[int, ...]) -> None:
    assert share_out(batch_size, ratio) == shares


def test_a_batch_holds_two_images_of_each_data_set() -> None:
    with pytest.raises(UserError, match=r"loader\.batch_size is 5, but there are 3 .* set it to 6 or more"):
        share_out(5, (1, 1, 1))


def test_a_single_image_with_ground_truth_teaches_nothing() -> None:
    joined = Joined({"classification": Named("classification", "abc"), "segmentation": Named("segmentation", "c")})
    batch = collate_training([joined[index] for index in range(3)])
    assert (list(batch.targets), batch.rows) == (["classification"], {})


def two_data_sets(labels: int, masks: int, batch_size: int = 8) -> DataModule:
    sources: dict[str, Source] = {
        "classification": create_source("shapes", task="classification", split="train", size=64, train_count=labels),
        "segmentation": create_source("shapes", task="segmentation", split="train", size=64, train_count=masks),
    }
    joined = Joined(sources, [["classification"], ["segmentation"]])
    preprocess = Preprocess(size=(64, 64), resize="letterbox")
    augment = create_augment({"preset": "multitask"}, preprocess)
    return DataModule(joined, joined, augment=augment, preprocess=preprocess, batch_size=batch_size, workers=0, seed=0)


@pytest.mark.parametrize(("labels", "masks"), [(3, 8), (8, 3)])
def test_a_data_set_smaller_than_its_share_splits_off_with_its_own_images(labels: int, masks: int) -> None:
    data = two_data_sets(labels, masks)
    assert data.shares == (min(labels, 4), min(masks, 4))
    (batch,) = data.first_batches(8)
    first, second = batch.split(data.shares)
    assert (list(first.targets), list(second.targets)) == (["classification"], ["segmentation"])
    assert (len(first.images), len(second.images)) == data.shares
    assert len(first.targets["classification"]["label"]) == len(first.images)
    assert len(second.targets["segmentation"]["mask"]) == len(second.images)
    assert first.rows == second.rows == {}


def test_a_head_with_a_single_image_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"the training split has 1 images for segmentation; both must be at least 2"):
        two_data_sets(8, 1)


def test_the_first_batches_of_a_validation_hold_images_of_every_data_set() -> None:
    assert in_step([3, 5]) == [0, 3, 1, 4, 2, 5, 6, 7]
    assert in_step([4]) == [0, 1, 2, 3]
    first = next(iter(two_data_sets(8, 6, batch_size=4).val_dataloader()))
    assert [sample.mask is None for sample in first.samples] == [True, False, True, False]
