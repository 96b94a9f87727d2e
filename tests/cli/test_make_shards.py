"""`mbv2kit make-shards` as a user runs it."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mbv2kit.commands.make_shards import job
from mbv2kit.data.sources import create_source
from tests.data.shards.scenes import SIZE, assert_same_images

Run = Callable[..., int]


def test_files_are_written_as_they_are(run: Run, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = ["train/cat/a.b.JPG", "train/dog/deep/ü.jpeg", "train/dog/ü.png", "val/cat/1.jpg", "val/dog/2.webp"]
    for name in files:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, exif=exif)
    assert run("make_shards", job, "dataset=folder", "dataset.root=data", "output=out", "workers=0") == 0
    with tarfile.open("out/train-000000.tar") as archive:
        written = {name.rpartition(".")[2]: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    for name in files[:3]:
        suffix = name.rpartition(".")[2].lower()
        assert written[suffix] == (tmp_path / "data" / name).read_bytes()
    ours = create_source("shards", task="classification", split="train", root="out")
    assert_same_images(
        ours, create_source("folder", task="classification", split="train", root="data", splits=("train", "val"))
    )
    assert ours[0].image.shape == (30, 20, 3)
    # Shards are a data set like any other.
    assert (
        run(
            "make_shards",
            job,
            "dataset=shards",
            "dataset.root=out",
            "tasks=[classification]",
            "output=again",
            "workers=0",
        )
        == 0
    )
    assert_same_images(create_source("shards", task="classification", split="train", root="again"), ours)


def test_an_image_that_cannot_be_read_is_named_and_the_rest_goes_on_once_it_is_replaced(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        for split in ("train", "val"):
            path = tmp_path / "data" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    broken = tmp_path / "data/train/a/2.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:40])
    command = ["dataset=folder", "dataset.root=data", "output=out", "images_per_shard=2", "workers=2"]
    assert run("make_shards", job, *command) == 2
    assert "train/a/2.png" in capsys.readouterr().err
    broken.write_bytes(content)
    assert run("make_shards", job, *command) == 0
    out = capsys.readouterr().out
    assert "train: 6 images in 3 shards, for classification" in out
    assert "of 6 shards are new" in out


def test_the_keys_of_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = [f"dataset.size={SIZE}", "dataset.train_count=40", "dataset.val_count=12"]
    common = [*scenes, "images_per_shard=16", "workers=0"]
    assert run("make_shards", job, *common, "output=plain", "shuffle=false", "tasks=[segmentation]") == 0
    assert "train: 40 images in 3 shards, for segmentation" in capsys.readouterr().out
    rows = pq.read_table("plain/index.parquet").to_pylist()
    assert [row["image_id"] for row in rows[:40]] == [f"train_{n:05d}" for n in range(40)]
    assert {row["label"] for row in rows} == {None}
    notes = json.loads(pq.read_schema("plain/index.parquet").metadata[b"mbv2kit.shards"])
    assert list(notes["class_names"]["val"]) == ["segmentation"]
    orders = []
    for seed in (0, 1):
        assert run("make_shards", job, *common, f"output=seed_{seed}", f"seed={seed}") == 0
        orders.append([row["image_id"] for row in pq.read_table(f"seed_{seed}/index.parquet").to_pylist()])
    assert orders[0][:40] != orders[1][:40]
    assert orders[0][40:] == orders[1][40:]
    assert run("make_shards", job, "dataset=folder", "dataset.root=plain", "tasks=[detection]", "output=o") == 2
    assert "serves classification, not detection" in capsys.readouterr().err
