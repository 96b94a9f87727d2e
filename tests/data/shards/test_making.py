"""Writing shards: the same bits however it is done, samples that other libraries read, and the command."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from mbv2kit.data.joined import Joined
from mbv2kit.data.sharding import run as making
from mbv2kit.data.sharding import shard
from mbv2kit.data.sharding.run import make_shards
from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from mbv2kit.models.folder_lock import held
from mbv2kit.structures import TASKS
from tests.data.shards.scenes import COUNTS, assert_same_images, drawn, make

Opened = Callable[..., Source]


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", COUNTS)
def test_shards_hold_the_samples_of_the_source(shards: Path, opened: Opened, task: Any, split: str) -> None:
    assert_same_images(opened(shards, task, split), drawn(task, split))


def test_the_validation_split_keeps_its_order_and_the_training_split_does_not(shards: Path, opened: Opened) -> None:
    assert list(opened(shards, split="val").image_names()) == list(drawn("detection", "val").image_names())
    names = list(opened(shards).image_names())
    assert names != sorted(names)


def test_two_processes_write_the_same_bits_as_one(shards: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "out", workers=2).new == 4
    assert contents(tmp_path / "out") == contents(shards)
    # Done is done.
    assert make(tmp_path / "out").new == 0


def test_sums_and_index_agree_with_the_tars(shards: Path) -> None:
    listed = dict(line.split("  ")[::-1] for line in (shards / "SHA256SUMS").read_text().splitlines())
    assert {name: digest for name, digest in contents(shards).items() if name.endswith(".tar")} == listed
    for row in pq.read_table(shards / "index.parquet").to_pylist():
        data = (shards / row["shard"]).read_bytes()
        for kind in ("", "mask_"):
            member = data[row[f"{kind}offset"] : row[f"{kind}offset"] + row[f"{kind}size"]]
            assert hashlib.sha256(member).digest() == row[f"{kind}sha256"]
            assert member.startswith(b"\x89PNG")


def test_webdataset_reads_the_same_samples(shards: Path, opened: Opened) -> None:
    urls = sorted(map(str, shards.glob("train-*.tar")))
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    labels, boxes, masks = (opened(shards, task) for task in TASKS)
    assert len(found) == len(labels) == COUNTS["train"]
    for place, sample in enumerate(found):
        np.testing.assert_array_equal(sample["png"], labels[place].image)
        # WebDataset decodes every PNG as RGB.
        np.testing.assert_array_equal(sample["mask.png"][..., 0], masks[place].mask)
        assert sample["cls"] == labels[place].label
        notes = sample["json"]
        assert notes["image_id"] == labels[place].image_id
        assert notes["class"] == labels.class_names[sample["cls"]]
        np.testing.assert_array_equal(np.float32(notes["boxes"]).reshape(-1, 4), boxes[place].boxes)
        assert notes["classes"] == [boxes.class_names[label] for label in boxes[place].labels]  # type: ignore[union-attr]


@pytest.mark.slow
def test_coco_keeps_what_its_protocol_needs(tmp_path: Path, opened: Opened, shared_data: Path) -> None:
    options = {
        "root": shared_data / "coco_mini",
        "split": "train2017",
        "annotations": "annotations/instances_train2017_with_crowd.json",
    }
    sources = {task: create_source("coco", task=task, **options) for task in ("detection", "segmentation")}  # type: ignore[arg-type]
    make_shards(
        {"train2017": Joined(sources)},
        tmp_path / "out",
        shuffled=[],
        seed=0,
        images_per_shard=50,
        workers=0,
    )
    for task, source in sources.items():
        ours = opened(tmp_path / "out", task, "train2017")
        assert_same_images(ours, source)
    for (size, boxes), (other_size, other_boxes) in zip(
        opened(tmp_path / "out", "detection", "train2017").objects(), sources["detection"].objects(), strict=True
    ):
        assert size == other_size
        np.testing.assert_array_equal(boxes, other_boxes)


# Runs in a process of its own, which ends before the n-th file of the output takes its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.shards.scenes import make
count = 0
def watch(event, arguments):
    global count
    if event == "os.rename" and str(arguments[1]).startswith(sys.argv[1]):
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
make(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_call_that_is_killed_goes_on_to_the_same_bits(shards: Path, tmp_path: Path, root: Path) -> None:
    output = tmp_path / "out"
    # The plan, then a tar and a part for each shard, the sums and the index.
    for rename in (1, 2, 3, 4, 3, 3, 1, 1):
        command = [sys.executable, "-c", KILLED, str(output), str(rename)]
        assert subprocess.run(command, cwd=root, check=False).returncode == -signal.SIGKILL
        assert not (output / "index.parquet").exists()
    make(output)
    assert contents(output) == contents(shards)


def test_only_missing_shards_are_written_again(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, written = shard.write_shard, []

    def stop_at_third(each: Any, *arguments: Any) -> int:
        written.append(each.name)
        if len(written) == 3:
            raise UserError("no power")
        return original(each, *arguments)

    monkeypatch.setattr(making, "write_shard", stop_at_third)
    with pytest.raises(UserError, match="no power"):
        make(tmp_path)
    # Half of a file is none, and neither is a tar that was cut afterwards.
    (tmp_path / ".train-000002.tar.1.part").write_bytes(b"half")
    (tmp_path / "train-000001.tar").write_bytes(b"cut")
    assert make(tmp_path).new == 3
    assert written == [f"train-00000{n}" for n in range(3)] + ["train-000001", "train-000002", "val-000000"]
    assert contents(tmp_path) == contents(shards)


@pytest.mark.parametrize("options", [{"seed": 1}, {"images_per_shard": 17}, {"shuffled": []}])
def test_shards_of_other_settings_are_left_alone(shards: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match="shards of other images or settings; name an empty"):
        make(tmp_path, **options)
    assert contents(tmp_path) == contents(shards)


def test_a_folder_of_the_user_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        make(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(UserError, match="another process is writing shards here"):
        make(tmp_path)


def test_a_split_of_any_name_becomes_a_plain_one(tmp_path: Path, opened: Opened) -> None:
    names = ("a b/ü", "a_b_?", "..")
    images = Joined({"classification": drawn("classification", "val")})
    make_shards(dict.fromkeys(names, images), tmp_path, shuffled=[], seed=0, images_per_shard=100, workers=0)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [
        "__-000000.tar",
        "a_b__-000000.tar",
        "a_b___-000000.tar",
    ]
    for name in names:
        assert_same_images(opened(tmp_path, split=name), drawn("classification", "val"))
