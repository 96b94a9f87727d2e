"""Data that teach nothing end training with a sentence before it starts, and leave no folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv2kit.commands.train import job as train

Run = Callable[..., int]
KEYS = [
    *("input.size=[32,32]", "backbone.width=0.35", "export=false", "dataset.root=data", "run_dir=out"),
    *("loader.batch_size=2", "loader.workers=1", "trainer.max_epochs=1", "trainer.progress_bar=false"),
]


def write_coco(root: Path, annotations: dict[str, list[dict[str, Any]]]) -> None:
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(root / f"images/{number}.png")
    for split, found in annotations.items():
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in range(4)],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, **each} for i, each in enumerate(found)],
            "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        }
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))


BOX = {"bbox": [4, 4, 20, 20], "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}


@pytest.mark.parametrize(
    ("task", "annotations", "message"),
    [
        ("segmentation", [], "all of its 4 images hold class 'background' and no other"),
        ("detection", [], "its 4 images hold no object of any class"),
        ("detection", [{**BOX, "iscrowd": 1}], "its 4 images hold no object of any class, only 1 that are crowds"),
    ],
)
def test_coco_without_objects(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], task: str, annotations: list[Any], message: str
) -> None:
    write_coco(tmp_path / "data", {"train": annotations, "val": [BOX]})
    assert run("train", train, f"task={task}", "dataset=coco", *KEYS) == 2
    error = capfd.readouterr().err
    assert f"The split 'train2017' cannot be trained on: {message}" in error.replace("\n", " ")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_validation_split_without_objects_is_told_and_training_goes_on(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path / "data", {"train": [BOX], "val": []})
    assert run("train", train, "task=detection", "dataset=coco", "ema.decay=null", *KEYS) == 0
    said = "".join(capfd.readouterr())
    assert "1 of 2 classes occur in no object of the split 'train2017': dust" in said
    assert "The split 'val2017' cannot be scored: its 4 images hold no object of any class" in said
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["metrics"]["AP"] is None
    assert metrics["notes"] == ["The ground truth holds no object of any class, so AP cannot be measured."]
    assert metrics["notes"][0] in said


def test_masks_of_0_and_255_are_refused(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncrack\n")
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("a\nb\n")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 8:24] = 255
    for name in "ab":
        Image.new("RGB", (32, 32)).save(root / f"JPEGImages/{name}.jpg")
        Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
    assert run("train", train, "task=segmentation", "dataset=voc", *KEYS) == 2
    error = capfd.readouterr().err
    assert "hold class 'background' and no other; 12 % of the pixels are void (255)" in error
    assert "crack" in error
    assert not (tmp_path / "out").exists()
