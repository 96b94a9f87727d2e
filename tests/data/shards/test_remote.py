"""Shards behind a URL: the samples of the local ones, whatever the network does, each byte once."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbv2kit.data.augment import create_augment
from mbv2kit.data.census import take_census
from mbv2kit.data.datamodule import DataModule
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import Source, create_source
from mbv2kit.data.sources.shards import cache, reader, storage
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import TASKS
from tests.data.shards.scenes import assert_same_images, drawn, make
from tests.data.shards.servers import HttpFolder, http_folder, s3_folder

Opened = Callable[..., Source]


@pytest.fixture
def server(shards: Path) -> Iterator[HttpFolder]:
    with http_folder(shards) as running:
        yield running


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks in a shard."""
    monkeypatch.setattr(reader, "BLOCK_BYTES", 2**16)


def read_all(source: Source) -> None:
    for place in range(len(source)):
        source[place]


@pytest.mark.parametrize(("task", "cache_gb"), [*((task, 1) for task in TASKS), ("segmentation", 0)])
def test_http_gives_the_samples_of_the_folder(
    server: HttpFolder, shards: Path, opened: Opened, task: Any, cache_gb: float
) -> None:
    assert_same_images(opened(server.url, task, cache_gb=cache_gb), opened(shards, task))


@pytest.mark.slow
def test_s3_gives_the_samples_of_the_folder(shards: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with s3_folder(shards) as (url, endpoint):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for cache_gb in (0, 1):
            assert_same_images(opened(url, "segmentation", cache_gb=cache_gb), opened(shards, "segmentation"))
        with pytest.raises(UserError, match=r"s3://shards/nowhere: there is no index\.parquet"):
            opened("s3://shards/nowhere")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        with pytest.raises(UserError, match=r"could not be read.*credentials"):
            opened(url)


@pytest.mark.parametrize("fault", ["cut", "500", "503", "429", "corrupt", "short", "silent"])
def test_what_the_network_breaks_is_read_again(
    shards: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, waits: list[float], small_blocks: None, fault: str
) -> None:
    monkeypatch.setattr(storage, "_SILENCE", 0.3)
    monkeypatch.setattr(reader, "_AHEAD", 0)
    # The first two attempts at every third range fail.
    with http_folder(shards, lambda number: fault if number % 5 < 2 else None) as server:
        assert_same_images(opened(server.url), opened(shards))
        assert waits
        assert all(0 <= wait <= 1 for wait in waits)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", r"train-00000\d\.tar: the file could not be read after 4 attempts \(HTTP 500\)"),
        ("cut", r"train-00000\d\.tar: the file could not be read after 4 attempts"),
        ("short", r"after 4 attempts \(.* bytes came where bytes .* were asked for\)"),
        ("corrupt", r"train-00000\d\.tar: the file of key train_0000000\d\d does not match its SHA-256 .*read 4 times"),
        ("whole", "the server sends the whole file .* use a server that supports HTTP ranges"),
    ],
)
@pytest.mark.parametrize("cache_gb", [0, 1])
def test_what_stays_broken_is_a_sentence(
    shards: Path, opened: Opened, waits: list[float], fault: str, message: str, cache_gb: float
) -> None:
    with http_folder(shards, lambda number: fault) as server:
        source = opened(server.url, retries=3, cache_gb=cache_gb)
        with pytest.raises(UserError, match=message):
            read_all(source)
        if fault == "whole":
            assert not waits
        else:
            # Twice as long at most each time, from half a second on.
            assert len(waits) == 3
            assert all(0 <= wait <= 0.5 * 2**number for number, wait in enumerate(waits))


def test_a_missing_file_is_not_asked_for_again(tmp_path: Path, opened: Opened, waits: list[float]) -> None:
    make(tmp_path / "out")
    (tmp_path / "out/train-000001.tar").unlink()
    with http_folder(tmp_path / "out") as server:
        source = opened(server.url)
        with pytest.raises(UserError, match=r"http://.*/train-000001\.tar: there is no such file"):
            read_all(source)
        with pytest.raises(UserError, match=r"http://.*/other: there is no index\.parquet\. Expected layout"):
            opened(f"{server.url}/other")
    assert not waits


def test_an_offset_beyond_the_file_is_not_asked_for_again(tmp_path: Path, opened: Opened, waits: list[float]) -> None:
    make(tmp_path / "out")
    (tmp_path / "out/train-000001.tar").write_bytes(b"short")
    with http_folder(tmp_path / "out") as server, pytest.raises(UserError, match=r"could not be read \(HTTP 416\)"):
        read_all(opened(server.url, retries=1))
    assert not waits


def test_opening_and_counting_read_the_index_alone(server: HttpFolder, opened: Opened) -> None:
    for task in TASKS:
        source, local = opened(server.url, task), drawn(task, "train")
        ours, theirs = take_census(source), take_census(local)
        assert (ours.counts.tolist(), ours.ignored, ours.images) == (theirs.counts.tolist(), theirs.ignored, 40)
        assert len(list(source.image_names())) == 40
    assert len(list(opened(server.url, "detection").objects())) == 40
    assert not server.requests


def test_every_block_comes_once_for_all_epochs_heads_and_runs(
    server: HttpFolder, opened: Opened, small_blocks: None
) -> None:
    for _ in range(2):
        for task in TASKS:
            source = opened(server.url, task)
            for place in np.random.default_rng(0).permutation(len(source)):
                source[int(place)]
    assert len(server.requests) > 6
    assert max(Counter(server.requests).values()) == 1


def test_the_next_blocks_are_read_ahead(
    server: HttpFolder, opened: Opened, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(reader._ReadAhead, "ask", lambda self, block: asked.append(block))
    source = opened(server.url)
    source[0]
    assert asked == [1, 2, 3][: len(asked)]
    assert asked
    # Those of another shard may come much later.
    names = [name for name, _, _ in server.requests]
    assert set(names) == {"train-000000.tar"}


def test_a_cache_on_a_full_disk_is_given_up_with_a_warning(
    server: HttpFolder, shards: Path, opened: Opened, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert_same_images(opened(server.url, cache_dir=str(blocked / "cache")), opened(shards))
    assert "images are read again each time they are needed" in caplog.text


def test_the_cache_stays_within_its_limit(tmp_path: Path) -> None:
    kept = cache.BlockCache(tmp_path, 1000)
    for number in range(40):
        kept.put(f"block {number}", bytes(100))
        os.utime(kept._path(f"block {number}"), (number, number))
        # The first one is in use all the time.
        assert kept.get("block 0", 0, 100) == bytes(100)
    sizes = [path.stat().st_size for path in tmp_path.glob("*/*")]
    assert 500 <= sum(sizes) <= 1000
    assert kept.has("block 39")
    assert not kept.has("block 5")
    # What is larger than the cache is not kept.
    kept.put("large", bytes(2000))
    assert not kept.has("large")


def test_a_damaged_block_on_disk_is_read_again(
    server: HttpFolder, shards: Path, opened: Opened, tmp_path: Path
) -> None:
    read_all(opened(server.url))
    for path in (tmp_path / "cache").glob("*/*"):
        if path.stat().st_size:
            path.write_bytes(bytes(path.stat().st_size))
    assert_same_images(opened(server.url), opened(shards))
    assert max(Counter(server.requests).values()) == 2


def test_shards_that_were_replaced_take_nothing_from_the_cache(tmp_path: Path, opened: Opened) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two", seed=1)
    served = tmp_path / "served"
    served.symlink_to("one")
    with http_folder(served) as server:
        read_all(opened(server.url))
        served.unlink()
        served.symlink_to("two")
        assert_same_images(opened(server.url), opened(tmp_path / "two"))
        assert max(Counter(server.requests).values()) <= 2


def test_a_window_that_the_cache_cannot_hold_is_a_warning(
    server: HttpFolder, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    opened(server.url, shuffle_window=1, cache_gb=0.0001)
    assert not caplog.text
    opened(server.url, cache_gb=0.0001)
    assert "more than dataset.cache_gb=0.0001, so that they are read several times" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/data",
        "https://host/data?token=secret",
        "s3://key:secret@bucket/x",
        "https://host/a::s3://b",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(opened: Opened, url: str) -> None:
    with pytest.raises(UserError, match="must be the plain URL of a folder") as error:
        opened(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing://host/data", "cannot be opened .*nothing"),
        ("http://127.0.0.1:1/data", r"index\.parquet: the file could not be read after 2 attempts"),
    ],
)
def test_a_url_that_leads_nowhere_is_a_sentence(opened: Opened, url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(url, retries=1)


def test_other_data_sets_take_no_url() -> None:
    with pytest.raises(UserError, match="is a URL, which dataset 'voc' cannot read; `mbv2kit make-shards`"):
        create_source("voc", task="detection", split="train", root="https://host/data")


def module(source: Source, workers: int, seed: int = 3) -> DataModule:
    joined = Joined({"classification": source})
    preprocess = Preprocess(size=(32, 32), resize="crop")
    augment = create_augment({"preset": "classification"}, preprocess)
    return DataModule(joined, joined, augment=augment, preprocess=preprocess, batch_size=8, workers=workers, seed=seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_faulty_server_are_those_of_the_folder(
    shards: Path, opened: Opened, small_blocks: None, workers: int
) -> None:
    faults = {1: "cut", 2: "500", 4: "corrupt", 6: "short", 7: "503"}
    with http_folder(shards, faults.get) as server:
        ours = module(opened(server.url, shuffle_window=12), workers)
        theirs = module(opened(shards, shuffle_window=12), 0)
        for epoch in range(2):
            ours.start_epoch(epoch)
            theirs.start_epoch(epoch)
            seen: list[str] = []
            for one, other in zip(ours.train_dataloader(), theirs.train_dataloader(), strict=True):
                assert one.image_ids == other.image_ids
                assert torch.equal(one.images, other.images)
                seen += one.image_ids
            assert len(seen) == len(set(seen)) == 40
        for one, other in zip(ours.val_dataloader(), theirs.val_dataloader(), strict=True):
            assert torch.equal(one.images, other.images)


def test_a_window_of_everything_has_the_batches_of_the_source_itself(tmp_path: Path, opened: Opened) -> None:
    make(tmp_path, shuffled=[])
    ours, theirs = module(opened(tmp_path), 0), module(drawn("classification", "train"), 0)
    for one, other in zip(ours.train_dataloader(), theirs.train_dataloader(), strict=True):
        assert one.image_ids == other.image_ids
        assert torch.equal(one.images, other.images)


# Reads everything from a URL with workers that share a cache which others also fill and empty, and may be killed.
CROWD = """
import sys
from mbv2kit.data.sources.shards import reader
from mbv2kit.data.sources import create_source
reader.BLOCK_BYTES = 2**15
source = create_source("shards", task="classification", split="train", root=sys.argv[1], cache_dir=sys.argv[2],
                       cache_gb=2e-4)
for turn in range(3):
    for place in range(len(source)):
        source[(place * 7 + turn) % len(source)]
print("done")
"""


@pytest.mark.slow
def test_processes_that_share_a_small_cache_and_are_killed_leave_it_whole(
    server: HttpFolder, shards: Path, opened: Opened, tmp_path: Path, root: Path
) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", CROWD, server.url, str(folder)]
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) for _ in range(4)]
    # Killed as soon as something is in the cache.
    while not list(folder.glob("*/*")) and running[0].poll() is None:
        pass
    for process in running[:2]:
        process.kill()
    assert [process.communicate()[0] for process in running[2:]] == [b"done\n"] * 2
    for process in running[:2]:
        process.communicate()
    assert sum(path.stat().st_size for path in folder.glob("*/*")) <= 2e5 + 4 * 2**17
    assert_same_images(opened(server.url, cache_dir=str(folder)), opened(shards))


def test_a_resumed_epoch_is_asked_for_the_window_that_it_began_with(shards: Path, opened: Opened) -> None:
    assert module(opened(shards, shuffle_window=12), 0).order["shuffle_window"] == [12]
    assert "shuffle_window" not in module(drawn("classification", "train"), 0).order
