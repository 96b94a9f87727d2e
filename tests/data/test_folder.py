import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv2kit.data.sources import Source, create_source, open_source
from mbv2kit.errors import UserError


def write(path: Path, gray: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), gray, np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path / "train/cat/b.png", 1)
    write(tmp_path / "train/cat/a.png", 2)
    write(tmp_path / "train/cat/deep/er/c.PNG", 3)
    write(tmp_path / "train/dog/a.png", 4)
    for name in "hdgcfbe":
        write(tmp_path / f"train/eel/{name}.png")
    write(tmp_path / "val/ant/a.png", 5)
    write(tmp_path / "val/dog/b.png", 6)
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/empty").mkdir()
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "logs").mkdir()
    return tmp_path


def open_folder(root: Path, split: str, **options: Any) -> Source:
    return open_source({"name": "folder", "root": root, **options}, "classification", split)


def names_of(source: Source) -> list[str]:
    return [source[index].image_id for index in range(len(source))]


def test_images_in_order_with_the_classes_of_both_splits(tree: Path) -> None:
    splits = {"train_split": "train", "val_split": "val"}
    train, val = (open_folder(tree, split, **splits) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("ant", "cat", "dog", "eel")
    found = [(train[i].image_id, train[i].label, int(train[i].image[0, 0, 0])) for i in range(len(train))]
    assert found[:4] == [("cat/a.png", 1, 2), ("cat/b.png", 1, 1), ("cat/deep/er/c.PNG", 1, 3), ("dog/a.png", 2, 4)]
    assert [name for name, _, _ in found[4:]] == [f"eel/{name}.png" for name in "bcdefgh"]
    assert [(val[i].image_id, val[i].label) for i in range(len(val))] == [("ant/a.png", 0), ("dog/b.png", 2)]


def test_folders_of_other_splits_and_runs_are_no_classes(tree: Path) -> None:
    write(tree / "test/unknown/a.png")
    write(tree / "outputs/run/predictions/a.png")
    splits = {"train_split": "train", "val_split": "val"}
    assert open_folder(tree, "train", **splits).class_names == ("ant", "cat", "dog", "eel")
    assert open_folder(tree, "test", **splits).class_names == ("unknown",)
    # A data set of which only one part is there.
    assert open_folder(tree, "val", train_split="absent", val_split="val").class_names == ("ant", "dog")


def test_runs_and_predictions_inside_a_split_are_no_classes(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for files in (
        ("run/config.yaml", "run/checkpoints/last.ckpt", "run/predictions/a.png"),
        ("cat/eval/metrics.json", "cat/eval/plots/pr.svg", "cat/eval/predictions/a.png"),
        ("found/.mbv2kit-infer", "found/images/a.png"),
    ):
        for file in files:
            write(tree / "train" / file) if file.endswith(".png") else _touch(tree / "train" / file)
    with caplog.at_level(logging.INFO):
        source = open_folder(tree, "train")
    assert source.class_names == ("cat", "dog", "eel")
    assert len(source) == 11
    assert "3 folders of runs, evaluations or predictions (such as cat/eval)" in caplog.text


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_class_folder_may_be_a_link(tree: Path) -> None:
    (tree / "val/zebra").symlink_to(tree / "train/cat")
    val = open_folder(tree, "val")
    assert val.class_names == ("ant", "dog", "zebra")
    assert len(val) == 5


def test_links_that_go_round_in_circles_are_passed_over_and_counted(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = names_of(open_folder(tree, "train"))
    for name in ("one", "two"):
        (tree / "train/cat" / name).symlink_to(".")
        (tree / "train/dog" / name).symlink_to(tree)
    (tree / "train/dog/deep").symlink_to(tree / "train/dog/deep")
    (tree / "train/all").symlink_to(".")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        source = open_folder(tree, "train")
    assert names_of(source) == before
    assert source.class_names == ("cat", "dog", "eel")
    (line,) = [record.message for record in caplog.records]
    assert "5 links to folders that are read anyway (such as all)" in line
    assert "1 pipes, devices or links that lead nowhere (such as dog/deep)" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_cannot_be_read_is_counted_and_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tree / "train/dog/pipe.png")
    (tree / "train/dog/gone.png").symlink_to("nowhere.png")
    (tree / "train/dog/a.raw").write_bytes(b"")
    (tree / "train/dog/b.RAW").write_bytes(b"")
    write(tree / "train/loose.png")
    with caplog.at_level(logging.INFO):
        source = open_folder(tree, "train")
    assert len(source) == 11
    assert [record.message for record in caplog.records] == [
        f"Left out in {tree / 'train'}: 1 images outside the class folders; 3 files that cannot be read as images "
        "(2 .raw, 1 .txt; such as dog/a.raw); 2 pipes, devices or links that lead nowhere (such as dog/gone.png)"
    ]


def test_a_folder_of_other_files_is_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(2):
        (tree / f"train/empty/{index}.raw").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        assert open_folder(tree, "train").class_names == ("cat", "dog", "eel")
    assert "3 files that cannot be read as images (2 .raw, 1 .txt; such as empty/0.raw)" in caplog.text
    for path in (tree / "val").rglob("*.png"):
        path.rename(path.with_suffix(".raw"))
    with pytest.raises(UserError, match=r"val: there is no image here that can be read, but 2 files .*\(2 \.raw"):
        open_folder(tree, "val")


def test_what_browsers_save_is_an_image(tree: Path) -> None:
    image = Image.fromarray(np.full((4, 6, 3), 7, np.uint8))
    image.save(tree / "val/ant/saved.jfif", "JPEG")
    assert names_of(open_folder(tree, "val")) == ["ant/a.png", "ant/saved.jfif", "dog/b.png"]


@pytest.mark.parametrize(("ours", "theirs"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("red_car", "Red car")])
def test_a_class_that_two_splits_write_differently_is_refused(tmp_path: Path, ours: str, theirs: str) -> None:
    write(tmp_path / f"train/{ours}/a.png")
    write(tmp_path / f"val/{theirs}/a.png")
    splits = {"train_split": "train", "val_split": "val"}
    with pytest.raises(UserError, match=f"class folders train/{ours} and val/{theirs} differ only by case"):
        open_folder(tmp_path, "train", **splits)
    # Letters and capitals: one split has both.
    write(tmp_path / f"train/{theirs}/a.png")
    write(tmp_path / f"val/{ours}/a.png")
    assert set(open_folder(tmp_path, "val", **splits).class_names) == {ours, theirs}


def test_images_without_class_folders_get_advice(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"val/ILSVRC2012_val_0000000{index}.JPEG")
    message = r"val: 3 images lie here without class folders; move each into a folder with the name of its class\."
    with pytest.raises(UserError, match=message + "$"):
        open_folder(tmp_path, "val")
    with pytest.raises(UserError, match=message + " The validation images of ImageNet are sorted by"):
        open_source({"name": "imagenet", "root": tmp_path}, "classification", "val")


def test_an_unknown_split_names_those_found(tree: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test'; splits found: train, val\."):
        create_source("folder", task="classification", root=tree, split="test")


def test_images_without_class_folders_show_the_layout(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"no folder here holds class folders[^\0]*ROOT/train/CLASS"):
        create_source("folder", task="classification", root=tmp_path, split="train")


def test_imagenet_follows_its_list_and_makes_names_unique(tmp_path: Path) -> None:
    for wnid in ("n03", "n01"):
        write(tmp_path / f"val/{wnid}/x.png")
    (tmp_path / "synsets.txt").write_text("n03\tcrane\nn02\tcrane\nn01\ttoy shop\n")
    source = create_source("imagenet", task="classification", root=tmp_path, split="val")
    assert source.class_names == ("crane (n03)", "crane (n02)", "toy shop")
    assert [(source[i].image_id, source[i].label) for i in range(2)] == [("n03/x.png", 0), ("n01/x.png", 2)]


def test_imagenet_without_a_list_sorts_its_ids(tmp_path: Path) -> None:
    for wnid in ("n03", "n01"):
        write(tmp_path / f"val/{wnid}/x.png")
    assert create_source("imagenet", task="classification", root=tmp_path, split="val").class_names == ("n01", "n03")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01\ta\nn01\tb\n", r"synsets\.txt, line 2: the id 'n01' is listed twice"),
        ("n01 a\n", r"synsets\.txt, line 1: 'n01 a' is not WNID<tab>name"),
        ("n02\tb\n", r"synsets\.txt: the class folder 'n01' is not in this list"),
    ],
)
def test_an_invalid_list_is_reported(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "val/n01/x.png")
    (tmp_path / "synsets.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        create_source("imagenet", task="classification", root=tmp_path, split="val")


def test_imagenet_samples(shared_data: Path) -> None:
    source = create_source("imagenet", task="classification", root=shared_data / "imagenet_samples", split="val")
    assert len(source) == 200
    assert len(source.class_names) == len(set(source.class_names)) == 1000
    samples = [source[i] for i in range(0, 200, 40)]
    lines = (shared_data / "imagenet_samples/synsets.txt").read_text().splitlines()
    for sample in samples:
        assert sample.label is not None
        assert lines[sample.label].split("\t")[0] == sample.image_id.split("/")[0]
        assert sample.label % 5 == 0
    with pytest.raises(UserError, match="splits found: val"):
        create_source("imagenet", task="classification", root=shared_data / "imagenet_samples", split="train")


def test_a_list_that_leads_nowhere_or_is_a_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "val/n01/x.png")
    (tmp_path / "synsets.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"synsets\.txt: the file could not be read \(No such file"):
        create_source("imagenet", task="classification", root=tmp_path, split="val")
    (tmp_path / "synsets.txt").unlink()
    (tmp_path / "synsets.txt").mkdir()
    with pytest.raises(UserError, match=r"synsets\.txt: this is no regular file"):
        create_source("imagenet", task="classification", root=tmp_path, split="val")
