"""Names of classes and images that a file holds reach no terminal, page or drawing as they are."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from mbv2kit.cli.console import open_console
from mbv2kit.cli.logs import show_log
from mbv2kit.commands import eval as eval_command
from mbv2kit.commands import train
from mbv2kit.weights.card import model_card

NAMES = ("\x1b[31mred\x07", "\udcff bytes", "[/bold]", "$\\frac$", "two\nlines", "<b>b</b>", "\u202eback", "`|_x_" * 40)
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

Run = Callable[..., int]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders with such names; images have them too."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in NAMES:
            folder = tmp_path / "data" / split / name.replace("/", "_")
            folder.mkdir(parents=True)
            for image in ("a", f"{name[:50].replace('/', '_')}", "x" * 250):
                PillowImage.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{image}.png")
    return tmp_path / "data"


@pytest.mark.slow
def test_odd_names_are_trained_on_evaluated_and_predicted(
    run: Run, folders: Path, tiny: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    keys = [key for key in tiny if not key.startswith("dataset.")]
    assert run("train", train.job, *keys, "dataset=folder", f"dataset.root={folders}", "run_dir=run") == 0
    assert run("eval", eval_command.job, "checkpoint=run", "loader.workers=0", "run_dir=results") == 0
    told = capfd.readouterr()
    for text in (told.out, told.err, Path("run/train.log").read_text(encoding="utf-8")):
        assert not ACTING.search(text)
    assert "\\x1b[31mred\\x07" in told.out
    assert "\\udcff bytes" in told.out
    metrics = json.loads(Path("results/metrics.json").read_text())
    assert set(metrics["per_class"]) == {name.replace("/", "_") for name in NAMES}
    card = model_card(json.loads(Path("run/model/model.json").read_text()), metrics, "me/model")
    card.encode()
    assert not ACTING.search(card)


def test_a_table_and_a_message_have_no_effect_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    open_console().print("\x1b[5mname \u202e", markup=False, highlight=False)
    assert "\\x1b[5mname \\u202e" in capfd.readouterr().out
    show_log()
    logging.getLogger("mbv2kit.anything").info("read %s", "\x1b[5mname\x9b")
    told = capfd.readouterr().err
    # Rich colors parts of it.
    assert "read \\x1b" in told
    assert "\\x9b" in told
    assert "\x1b[5m" not in told
    assert "\x9b" not in told


def test_names_of_metrics_and_classes_are_text_in_the_card() -> None:
    description = {
        "schema_version": 1,
        "backbone": {"name": "mobilenet_v2"},
        "heads": {"classification": {"name": "classifier"}},
        "class_names": {"classification": ["cat", "dog"]},
        "input": {"size": [32, 32], "resize": "crop", "crop_fraction": 0.875, "fill": 127},
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
        "origin": {},
    }
    hostile = "<img src=x>|\x1b[31m`*x*`"
    metrics = {
        "task": "classification",
        "dataset": hostile,
        "split": hostile,
        "images": 1,
        "metrics": {hostile: 0.5},
        "per_class": {hostile: {hostile: 0.5}},
    }
    card = model_card(description, metrics, "me/model")
    _, _, text = card.split("---\n", 2)
    outside = re.sub(r"(`+)[^`].*?\1", "", re.sub(r"\\.", "", text))
    assert "<img" not in outside
    assert not ACTING.search(card)
    (header,) = [line for line in text.splitlines() if line.startswith("| class ")]
    assert len(re.findall(r"(?<!\\)\|", header)) == 3
