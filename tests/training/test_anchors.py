"""Anchors that training finds in its data: which boxes count, and where what is found is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from mbv2kit.heads import list_heads
from mbv2kit.heads.anchor_clusters import mean_iou
from mbv2kit.heads.registry import options_from_data
from mbv2kit.heads.yolo_v2 import YOLOv2
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Sample
from mbv2kit.training.anchors import box_shapes
from mbv2kit.training.run import train

Compose = Callable[..., DictConfig]


class Two(Source):
    """A wide image with an object and a crowd, and a high one with an object."""

    class_names = ("thing",)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        boxes = ([[0, 0, 40, 10], [5, 5, 30, 15]], [[3, 10, 13, 60]])[index]
        crowd = ([False, True], [False])[index]
        return Sample(
            image=np.zeros(((20, 40, 3), (80, 20, 3))[index], np.uint8),
            image_id=str(index),
            boxes=np.array(boxes, np.float32),
            labels=np.zeros(len(boxes), np.int64),
            crowd=np.array(crowd),
        )


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        (Preprocess((100, 200), "stretch"), [[1.0, 0.5], [0.5, 0.625]]),
        # The first image becomes 200 x 100 pixels, the second 25 x 100.
        (Preprocess((100, 200), "letterbox"), [[1.0, 0.5], [0.5 * 25 / 200, 0.625]]),
        (Preprocess((100, 200), "pad"), [[40 / 200, 10 / 100], [10 / 200, 50 / 100]]),
    ],
)
def test_shapes_are_those_in_the_networks_input_without_crowds(
    preprocess: Preprocess, expected: list[list[float]]
) -> None:
    np.testing.assert_allclose(box_shapes(Two(), preprocess), expected)


@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [("voc", "bccd", "val"), ("coco", "coco_mini", "val2017"), ("shapes", None, "val")],
)
def test_sources_that_know_their_boxes_say_the_same_as_their_samples(
    shared_data: Path, name: str, folder: str | None, split: str
) -> None:
    options = {"val_count": 5} if folder is None else {"root": shared_data / folder}
    source = create_source(name, task="detection", split=split, **options)
    count = 0
    for (size, boxes), (expected_size, expected) in zip(source.objects(), Source.objects(source), strict=True):
        assert size == expected_size
        np.testing.assert_array_equal(boxes, expected)
        count += len(boxes)
    assert count > len(source)


def no_data() -> NDArray[np.float64]:
    raise AssertionError("the data were asked for")


def test_heads_that_need_no_data_are_left_as_they_are_and_do_not_ask() -> None:
    others = [name for name in list_heads() if name != "yolo_v2"]
    assert {"ssd", "ssdlite", "classifier"} <= set(others)
    for options in [{"name": name, "some": 1} for name in others] + [{"name": "yolo_v2", "anchors": [[0.1, 0.2]]}]:
        assert options_from_data(options, no_data) == options


def test_a_split_without_boxes_is_refused() -> None:
    with pytest.raises(UserError, match=r"training split has no box to find anchors in"):
        options_from_data({"name": "yolo_v2", "anchors": None}, lambda: np.empty((0, 2)))


def test_the_anchors_fit_the_data_and_keep_the_other_options() -> None:
    shapes = np.random.default_rng(0).uniform(0.02, 0.6, (300, 2))
    options = options_from_data({"name": "yolo_v2", "anchors": None, "num_anchors": 4, "nms_iou": 0.3}, lambda: shapes)
    anchors = options.pop("anchors")
    assert options == {"name": "yolo_v2", "num_anchors": 4, "nms_iou": 0.3}
    assert np.array(anchors).shape == (4, 2)
    assert mean_iou(shapes, np.array(anchors)) > 0.55


@pytest.mark.slow
def test_a_run_keeps_the_anchors_that_it_found(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    overrides = ("head=yolo_v2", "head.channels=16", "head.num_anchors=3", "trainer.max_epochs=1")
    train(tiny(run.path, *overrides, task="detection"))
    kept = OmegaConf.load(run.config)
    source = create_source("shapes", task="detection", split="train", size=64, train_count=17, val_count=6)
    wanted = options_from_data(
        {"name": "yolo_v2", "anchors": None, "num_anchors": 3},
        lambda: box_shapes(source, Preprocess((64, 64), "stretch")),
    )["anchors"]
    assert kept.head.anchors == wanted
    assert json.loads((run.model / "model.json").read_text())["heads"]["detection"]["anchors"] == wanted
    head = VisionModel.load(run.model).heads["detection"]
    assert isinstance(head, YOLOv2)
    torch.testing.assert_close(head.anchors, torch.tensor(wanted))
    assert f": anchors={wanted}" in run.log.read_text()

    # Had it not come to its end, it would go on with what it found, and not look again.
    run.metrics.unlink()
    kept.trainer.max_epochs = 2
    OmegaConf.save(kept, run.config)
    monkeypatch.setattr("mbv2kit.training.data.box_shapes", lambda *_: no_data())
    train(tiny(Path("unused"), f"resume='{run.path}'"))
    assert run.finished
    assert OmegaConf.load(run.config).head.anchors == wanted
    assert VisionModel.load(run.model).spec.origin["epoch"] in (1, 2)


@pytest.mark.slow
def test_anchors_of_the_command_line_are_not_looked_for(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.training.data.box_shapes", lambda *_: no_data())
    anchors = "head.anchors=[[0.1,0.2],[0.5,0.4]]"
    run = RunFolder(tmp_path / "run")
    train(tiny(run.path, "head=yolo_v2", "head.channels=16", anchors, "trainer.max_epochs=1", task="detection"))
    assert OmegaConf.load(run.config).head.anchors == [[0.1, 0.2], [0.5, 0.4]]
