"""`mbv2kit cut-objects` as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv2kit.commands.cut_objects import job

Run = Callable[..., int]


def test_classes_and_images_of_any_name_stay_in_the_output(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["../../up", "/tmp/absolute", "car", "car/truck"]
    files = ["cam_a/1.png", "cam_b/1.png"]
    for split in ("train2017", "val2017"):
        for file in files:
            path = tmp_path / "data/images" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
        content = {
            "images": [{"id": k, "file_name": file, "width": 20, "height": 20} for k, file in enumerate(files)],
            "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
            "annotations": [
                {
                    "id": 10 * image + k,
                    "image_id": image,
                    "category_id": k,
                    "bbox": [2, 2, 8, 8],
                    "area": 64,
                    "iscrowd": 0,
                }
                for image in range(len(files))
                for k in range(len(names))
            ],
        }
        annotations = tmp_path / f"data/annotations/instances_{split}.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(content))
    before = sorted(tmp_path.iterdir())
    splits = ("dataset.train_split=train2017", "dataset.val_split=val2017")
    assert run("cut_objects", job, "dataset=coco", "dataset.root=data", *splits, "output=a/out") == 0
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a", *before]
    for split in ("train", "val"):
        folders = {path.name: len(list(path.iterdir())) for path in Path("a/out", split).iterdir()}
        assert folders == {"%2E./../up".replace("/", "%2F"): 2, "%2Ftmp%2Fabsolute": 2, "car": 2, "car%2Ftruck": 2}
    output = capsys.readouterr().out
    assert "8 objects of 4 classes in a/out/val" in output
    assert "'car/truck' in car%2Ftruck" in output
    # The outputs of the first run are not written over.
    assert run("cut_objects", job, "dataset=coco", "dataset.root=data", *splits, "output=a/out") == 2
