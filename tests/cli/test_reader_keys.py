"""Keys of the reader do what they say, through the command."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mbv2kit.commands.train import job
from mbv2kit.models.run_folder import RunFolder
from tests.cli.conftest import of_folders
from tests.cli.runs import rows

Run = Callable[..., int]


@pytest.mark.shows("dataset.cache")
def test_a_cache_reads_every_file_once(
    run: Run, tiny: list[str], folders: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.training.run.finish", lambda *_: None)
    monkeypatch.setenv("MBV2KIT_CACHE", str(tmp_path / "cache"))
    keys = (*of_folders(tiny, folders), "trainer.max_epochs=3")
    counts = {}
    for name, key in (("none", "null"), ("ram", "ram"), ("disk", "disk"), ("again", "disk")):
        assert run("train", job, *keys, f"dataset.cache={key}", f"run_dir={name}") == 0
        counts[name] = len(reads)
        reads.clear()
    assert counts == {"none": 24, "ram": 8, "disk": 8, "again": 0}
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
    losses = {name: [row["train/loss"] for row in rows(RunFolder(tmp_path / name))] for name in counts}
    # Images of 40 pixels are kept at full size, where nothing differs.
    assert losses["none"] == losses["ram"] == losses["disk"] == losses["again"]
    (line,) = re.findall("dataset.cache=ram keeps .*", (tmp_path / "ram" / "train.log").read_text(encoding="utf-8"))
    assert line == (
        "dataset.cache=ram keeps 8 images decoded as they are first read, 8 of them at full size: 0.0 MB of memory"
    )


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            ("dataset.cache=ram",),
            "dataset.cache=ram keeps what files decode to, and dataset 'shapes' makes its own images; leave it out.",
        ),
        (("dataset.cache=flash",), "dataset.cache must be one of ram, disk"),
        (("loader.workers=many",), "loader.workers must be"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    run: Run, tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], keys: tuple[str, ...], sentence: str
) -> None:
    assert run("train", job, *tiny, *keys, "run_dir=OUT") == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert f"error: {sentence}" in said
    assert not (tmp_path / "OUT").exists()


def test_a_preset_that_uses_whole_images_takes_no_cache(
    run: Run, tiny: list[str], folders: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = (*of_folders(tiny, folders), "augment=none", "dataset.cache=ram")
    assert run("train", job, *keys, "run_dir=OUT") == 2
    assert "error: dataset.cache=ram: augment.preset=none uses whole images" in capfd.readouterr().err


def test_a_run_whose_memory_is_too_small_says_so_before_it_begins(
    run: Run, tiny: list[str], folders: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.data.image_cache.free_memory", lambda: 1_000_000_000)
    assert run("train", job, *of_folders(tiny, folders), "dataset.cache=ram", "run_dir=OUT") == 2
    assert "set dataset.cache=disk, or leave it out" in capfd.readouterr().err
    assert not Path("OUT").exists()


def test_workers_are_counted_and_stated(
    run: Run, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.training.run.finish", lambda *_: None)
    monkeypatch.setattr("mbv2kit.training.data.usable_cores", lambda: 17)
    assert run("train", job, *tiny, "loader.workers=auto", "run_dir=OUT") == 0
    said = (tmp_path / "OUT" / "train.log").read_text(encoding="utf-8")
    assert "loader.workers=auto: 2 for 17 cores and accelerator cpu" in said
    # Another machine decides anew.
    assert "workers: auto" in (tmp_path / "OUT" / "config.yaml").read_text(encoding="utf-8")
