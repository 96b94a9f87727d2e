import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv2kit.data.inside import PathOptions, leads_outside
from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from tests.data.voc_trees import HEIGHT, WIDTH, image, make_tree, xml


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a/../b.jpg", "./a.jpg", "..a.jpg", "a/..b/c..jpg", "a:b"])
def test_names_below_the_folder_are_taken(name: str) -> None:
    assert not leads_outside(name)
    PathOptions().check(name, Path("list.txt"))


@pytest.mark.parametrize("name", ["/a.jpg", "../a.jpg", "a/../../b.jpg", "..", "C:/a.jpg", "C:\\a.jpg", "//host/a/b"])
def test_names_that_lead_out_are_refused_unless_the_user_trusts_them(name: str) -> None:
    assert leads_outside(name)
    with pytest.raises(UserError, match=r"^list\.txt: the file name '.+' leads out of the data set"):
        PathOptions().check(name, Path("list.txt"))
    PathOptions(follow_outside=True).check(name, Path("list.txt"))


def make_folders(root: Path) -> None:
    for place in ("train/cat", "train/dog"):
        image(root / place / "a")
    (root / "synsets.txt").write_text("cat\tcat\ndog\tdog\n")


def make_voc(root: Path) -> None:
    make_tree(root, {"a.png": xml(("cat", (1, 1, 9, 9)))}, "a")
    (root / "ImageSets/Segmentation").mkdir()
    shutil.copy(root / "ImageSets/Main/train.txt", root / "ImageSets/Segmentation")
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(root / "SegmentationClass/a.png")
    (root / "classes.txt").write_text("background\ncat\n")


def make_coco(root: Path) -> None:
    image(root / "images/train/deep/a")
    content = {
        "images": [{"id": 1, "file_name": "deep/a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(content))


def opened(name: str, task: str, root: Path, **options: Any) -> Source:
    return create_source(name, **{"task": task, "root": root, "split": "train", **options})


LINKS = [
    *((make_folders, "folder", "classification", place) for place in ("train", "train/cat", "train/cat/a.png")),
    (make_folders, "imagenet", "classification", "synsets.txt"),
    *(
        (make_voc, "voc", "detection", place)
        for place in (
            *("JPEGImages", "JPEGImages/a.png", "Annotations", "Annotations/a.xml", "ImageSets", "classes.txt"),
            "ImageSets/Main/train.txt",
        )
    ),
    (make_voc, "voc", "segmentation", "SegmentationClass/a.png"),
    *(
        (make_coco, "coco", "detection", place)
        for place in ("images", "images/train/deep", "images/train/deep/a.png", "annotations/instances_train.json")
    ),
]


@pytest.mark.parametrize(("make", "name", "task", "place"), LINKS)
def test_links_stay_below_the_folder_unless_the_user_trusts_them(
    make: Callable[[Path], None], name: str, task: str, place: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    make(root)
    (root / "kept").mkdir()
    for home in (root / "kept", tmp_path):
        (root / place).rename(home / "moved")
        (root / place).symlink_to(home / "moved")
        if home == tmp_path:
            with pytest.raises(
                UserError, match=r" leads out of the data set, to .*moved.*dataset\.follow_outside=true"
            ):
                opened(name, task, root)
        source = opened(name, task, root, follow_outside=home == tmp_path)
        assert source[0].image.shape == (HEIGHT, WIDTH, 3)
        (root / place).unlink()
        (home / "moved").rename(root / place)


def test_a_split_may_not_lead_out_either(tmp_path: Path) -> None:
    for root in ("one", "two"):
        make_folders(tmp_path / root)
    with pytest.raises(UserError, match=r"one/\.\./two/train leads out of the data set"):
        opened("folder", "classification", tmp_path / "one", split="../two/train")
