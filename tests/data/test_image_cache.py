import logging
import os
import shutil
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PillowImage

from mbv2kit.data import image_cache
from mbv2kit.data.augment import PRESETS, create_augment
from mbv2kit.data.image_cache import ImageCache, Where
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import create_source
from mbv2kit.data.training_set import TrainingSet
from mbv2kit.errors import UserError
from mbv2kit.imaging import parts
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Sample
from tests.imaging.drawn import STORED, save_turned, scene

PLACES: tuple[Where, ...] = ("ram", "disk")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBV2KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A photo at full size, one that every view reduces, a turned one and a PNG."""
    paths = [tmp_path / name for name in ("small.jpg", "large.jpg", "turned.jpg", "plain.png")]
    for path, size in zip(paths, [(60, 80), (401, 603), (320, 480), (410, 300)], strict=True):
        save_turned(scene(*size), 6 if path.stem == "turned" else 1, path)
    return paths


def quarter(height: int, width: int) -> int:
    return 1 if height < 100 else 4


@pytest.mark.parametrize("where", PLACES)
def test_files_are_read_once_and_look_as_from_the_file(files: list[Path], reads: list[Path], where: Where) -> None:
    cache = ImageCache(files, quarter, where)
    for _ in range(2):
        for index, file in enumerate(files):
            found, whole = cache.parts(index, file), parts.KnownParts(decode(file))
            assert found.size == whole.size
            height, width = whole.size
            box, size = (width // 8, height // 4, width, height), (height // 10, width // 11)
            expected = parts.FileParts(file).cut(box, *size)
            reads.pop()
            assert np.abs(found.cut(box, *size).astype(int) - expected).mean() < 0.6
    assert reads == files


@pytest.mark.parametrize("where", PLACES)
def test_a_file_that_has_changed_is_read_anew(files: list[Path], reads: list[Path], where: Where, folder: Path) -> None:
    cache = ImageCache(files, quarter, where)
    box = (0, 0, 80, 60)
    before = cache.parts(0, files[0]).cut(box, 60, 80)
    save_turned(255 - scene(60, 80), 1, files[0])
    os.utime(files[0], ns=(0, 1))
    for index in (0, 0):
        changed = cache.parts(index, files[0]).cut(box, 60, 80)
        assert np.abs(changed.astype(int) - before).mean() > 20
    assert len(reads) == 3
    again = ImageCache(files, quarter, where)
    assert np.array_equal(again.parts(0, files[0]).cut(box, 60, 80), changed)


def test_what_is_on_disk_serves_later_runs(files: list[Path], reads: list[Path], folder: Path) -> None:
    for _ in range(2):
        cache = ImageCache(files, quarter, "disk")
        for index, file in enumerate(files):
            cache.parts(index, file)
    assert reads == files
    (kept,) = folder.iterdir()
    del cache
    # Another reduction is another cache; other files of the same names replace theirs, once it is not in use.
    ImageCache(files, lambda height, width: 1, "disk")
    os.utime(files[0], ns=(0, 1))
    ImageCache(files, quarter, "disk")
    assert len(list(folder.iterdir())) == 2
    assert not kept.exists()


def test_a_cache_in_use_is_not_removed(files: list[Path], folder: Path) -> None:
    cache = ImageCache(files, quarter, "disk")
    (kept,) = folder.iterdir()
    os.utime(files[0], ns=(0, 1))
    ImageCache(files, quarter, "disk")
    assert kept.exists()
    assert cache.parts(1, files[1]).size == (401, 603)


@pytest.mark.parametrize("damage", ["cut", "changed", "longer"])
def test_a_damaged_cache_shows_no_wrong_pixel(files: list[Path], folder: Path, damage: str) -> None:
    cache = ImageCache(files, quarter, "disk")
    box = (0, 0, 600, 400)
    expected = cache.parts(1, files[1]).cut(box, 50, 70)
    del cache
    (kept,) = folder.iterdir()
    data = bytearray(kept.read_bytes())
    if damage == "changed":
        data[-200_000::7] = bytes(len(data[-200_000::7]))
    kept.write_bytes(data[:100] if damage == "cut" else data + bytes(50) if damage == "longer" else data)
    again = ImageCache(files, quarter, "disk")
    assert np.array_equal(again.parts(1, files[1]).cut(box, 50, 70), expected)


def test_what_does_not_fit_is_refused_before_anything_is_decoded(
    files: list[Path], folder: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "free_memory", lambda: 2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(UserError, match=r"=ram needs 0.\d MB .*, and 2.0 GB of memory are free, of which 2.1 GB stay"):
        ImageCache(files, quarter, "ram")
    with pytest.raises(UserError, match=r"dataset.cache=disk needs .* and 1.0 MB are free in .*; set MBV2KIT_CACHE to"):
        ImageCache(files, quarter, "disk")
    assert not list(folder.iterdir())
    assert not reads


def test_a_disk_that_fills_up_meanwhile_costs_no_image(
    files: list[Path], reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ImageCache(files, quarter, "disk")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert cache.parts(1, files[1]).cut((0, 0, 600, 400), 50, 70).shape == (50, 70, 3)
    assert reads == [files[1]] * 2


def test_a_folder_that_cannot_be_written_is_named(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("MBV2KIT_CACHE", str(tmp_path / "taken"))
    with pytest.raises(UserError, match=r"taken.* cannot be written .*; name another folder"):
        ImageCache(files, quarter, "disk")


def _parts(cache: ImageCache, file: Path) -> None:
    cache.parts(0, file)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_what_they_decode(files: list[Path], reads: list[Path], where: Where, method: str) -> None:
    cache = ImageCache(files, quarter, where)
    process = get_context(method).Process(  # type: ignore[attr-defined]
        target=_parts, args=(cache, files[0])
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    cache.parts(0, files[0])
    assert not reads


def test_the_log_says_what_is_kept(files: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ImageCache(files, quarter, "ram")
    assert caplog.messages == [
        "dataset.cache=ram keeps 4 images decoded as they are first read, 1 of them at full size: 0.1 MB of memory"
    ]


# ------------------------------------------------------------------------------------------------ training


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for index, (height, width) in enumerate([(240, 320), (500, 375), (1080, 1920), (47, 33)]):
        path = tmp_path / "data" / "train" / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(scene(height, width)).save(path, quality=92)
    return tmp_path / "data"


Samples = Callable[[Where | None, str], list[Sample]]


@pytest.fixture
def samples(folders: Path) -> Samples:
    """Makes two epochs of training samples, with and without a cache."""
    source = create_source("folder", task="classification", split="train", root=folders)

    def make(where: Where | None, preset: str) -> list[Sample]:
        augment = create_augment({"preset": preset}, Preprocess((96, 96), "letterbox"))
        caches = []
        if where is not None:
            joined = Joined({"classification": source})
            files = [joined.image_file(index) for index in range(len(joined))]
            caches = [ImageCache([file for file in files if file], augment.most_reduced, where)]
        images = TrainingSet(Joined({"classification": source}), augment, 0, caches or None)
        return [images[epoch, index] for epoch in range(6) for index in range(len(images))]

    return make


@pytest.mark.parametrize("preset", ["classification", "multitask", "none"])
def test_samples_with_a_cache_are_those_without(samples: Samples, preset: str) -> None:
    plain, ram, disk = (samples(where, preset) for where in (None, *PLACES))
    for without, first, second in zip(plain, ram, disk, strict=True):
        assert np.array_equal(first.image, second.image)
        assert np.abs(without.image.astype(int) - first.image).mean() < 1.5
    # On average the blocks of the decoder are those of the pixels.
    assert np.mean([np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(plain, ram, strict=True)]) < 0.6


@pytest.mark.parametrize("preset", [name for name in PRESETS.names() if name != "none"])
@pytest.mark.parametrize("size", [(1080, 1920), (375, 500), (3000, 4000), (64, 2000), (900, 50)])
def test_no_view_needs_more_than_is_kept(preset: str, size: tuple[int, int]) -> None:
    augment = create_augment({"preset": preset}, Preprocess((96, 128), "letterbox"))
    reduced = augment.most_reduced(*size)
    sample = Sample(
        image=np.broadcast_to(np.uint8(0), (*size, 3)),
        image_id="a",
        label=0,
        boxes=np.array([[5, 5, 40, 45]], np.float32),
        labels=np.array([0]),
        mask=np.broadcast_to(np.uint8(0), size),
    )
    least = 8.0
    for seed in range(300):
        view = augment.choose_view(sample, np.random.default_rng(seed))
        x1, y1, x2, y2 = view.source
        # Borders are rounded to whole pixels of the input.
        (height, width) = (side - 1 for side in view.size)
        least = min(least, *((y2 - y1) / max(1, height), (x2 - x1) / max(1, width)))
    assert least >= reduced or reduced == 1
    if min(size) > 300:
        assert augment.most_reduced(*(4 * side for side in size)) >= min(8, 2 * reduced)


@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_image_is_the_same_from_disk(tmp_path: Path, orientation: int) -> None:
    save_turned(scene(128, 256), orientation, tmp_path / "a.jpg")
    cache = ImageCache([tmp_path / "a.jpg"], lambda height, width: 2, "disk")
    cut = cache.parts(0, tmp_path / "a.jpg").cut((10, 20, 200, 100), 30, 80)
    again = ImageCache([tmp_path / "a.jpg"], lambda height, width: 2, "disk")
    assert np.array_equal(again.parts(0, tmp_path / "a.jpg").cut((10, 20, 200, 100), 30, 80), cut)
