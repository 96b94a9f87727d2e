"""`mbv2kit infer` as a user runs it, on a small model without training."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from mbv2kit.commands.infer import split_arguments
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from tests.inference.networks import save_shares

HEAVY = ("lightning", "pytorch_lightning", "albumentations", "torchmetrics", "pandas", "matplotlib")

# Runs a tool as `python tools/infer.py ARGUMENTS` would, then says what it has imported.
WITH_IMPORTS = """
import runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("IMPORTED", *(name for name in sys.modules if "." not in name))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a model of all three tasks and two images, one of an awkward name."""
    folder = tmp_path_factory.mktemp("work")
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={
            "classification": {"name": "classifier"},
            "detection": {"name": "ssdlite"},
            "segmentation": {"name": "deeplab_v3"},
        },
        class_names={
            "classification": ["cat", "dog", "owl"],
            "detection": ["cat", "dog"],
            "segmentation": ["background", "cat"],
        },
        input=Preprocess((64, 64)),
    )
    VisionModel(spec).save(folder / "model")
    noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    (folder / "photos").mkdir()
    PillowImage.fromarray(noise).save(folder / "photos" / "plain.png")
    PillowImage.fromarray(noise).save(folder / "photos" / "min_score=0.1.jpg")
    return folder


def run_tool(root: Path, workplace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = WITH_IMPORTS.replace("sys.argv[0]", repr(str(root / "tools" / "infer.py")), 1)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)


def test_images_in_results_out_without_the_libraries_of_training(root: Path, workplace: Path) -> None:
    done = run_tool(root, workplace, "photos/*.png", "photos", "checkpoint=model", "output=all", "batch_size=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    records = [json.loads(line) for line in (workplace / "all" / "predictions.jsonl").read_text().splitlines()]
    names = ["photos/plain.png", "photos/min_score=0.1.jpg", "photos/plain.png"]
    assert [record["image"] for record in records] == names
    assert records[0]["tasks"] == ["classification", "detection", "segmentation"]
    assert sum(record["score"] for record in records[0]["classes"]) == pytest.approx(1, abs=1e-5)
    assert sum(records[0]["fractions"].values()) == pytest.approx(1, abs=1e-5)
    assert "boxes" in records[0]
    with PillowImage.open(workplace / "all" / records[0]["mask"]) as mask:
        assert mask.size == (80, 48)
    assert len(list((workplace / "all" / "images").iterdir())) == 3

    imported = done.stdout.split("IMPORTED ")[1].split()
    assert "torch" in imported
    assert not set(imported) & set(HEAVY)


@pytest.fixture(scope="module")
def exported(workplace: Path) -> str:
    """The name of a folder with an exported network: its probabilities are the shares of red, green and blue."""
    save_shares(workplace / "exported")
    return "exported"


@pytest.mark.parametrize("keys", [(), ("save_images=false",)])
def test_an_exported_model_predicts_without_torch(
    root: Path, workplace: Path, exported: str, keys: tuple[str, ...]
) -> None:
    colors = {"red": (200, 40, 10), "blue": (10, 0, 90)}
    for name, color in colors.items():
        PillowImage.new("RGB", (16, 12), color).save(workplace / f"{name}.png")
    done = run_tool(
        root,
        workplace,
        *(f"{name}.png" for name in colors),
        f"checkpoint={exported}",
        "output=fast",
        "runtime=onnxruntime",
        *keys,
    )
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in (workplace / "fast" / "predictions.jsonl").read_text().splitlines()]
    assert [(record["classes"][0]["label"], record["classes"][0]["score"]) for record in records] == [
        ("red", 0.8),
        ("blue", 0.9),
    ]
    imported = set(done.stdout.split("IMPORTED ")[1].split())
    assert "onnxruntime" in imported
    # Rich draws a bar only in a terminal, and there is none here.
    assert not imported & {"torch", "torchvision", "onnx", "onnxscript", "safetensors", "rich", *HEAVY}


def test_the_command_line_is_checked_without_torch(root: Path, workplace: Path) -> None:
    done = run_tool(root, workplace, "photos/plain.png", "min_scor=0.2")
    assert done.returncode == 2
    assert done.stderr == "error: There is no key 'min_scor'. Did you mean 'min_score'?\n"
    assert "torch" not in done.stdout.split("IMPORTED ")[1].split()


def test_exit_codes(root: Path, workplace: Path) -> None:
    missing = run_tool(root, workplace, "photos/plain.png", "none.jpg", "checkpoint=model", "output=some")
    assert missing.returncode == 1, missing.stderr
    last = (workplace / "some" / "predictions.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"image": "none.jpg", "error": "none.jpg: there is no such file."}

    nothing = run_tool(root, workplace, "checkpoint=model")
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("error: No image is named;")
    assert nothing.stderr.count("\n") == 1


def test_help_shows_the_keys(root: Path, workplace: Path) -> None:
    done = run_tool(root, workplace, "--help")
    assert done.returncode == 0
    assert "draw_min_score=0.4" in done.stdout
    assert "mbv2kit infer cat.jpg photos/" in done.stdout


def test_bare_words_are_images_and_the_rest_is_hydras(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    images = ["cat.jpg", "photos/", "photos/**/*=*.png", "photos/min_score=0.1.jpg", "~/cat.jpg", "1=2.jpg"]
    overrides = ["task=detection", "+a.b=1", "++a@b=1", "~task", "-m", "--cfg", "job", "hydra/help=tool", "output=a b"]
    assert split_arguments([*images, *overrides]) == (images, overrides)
    mixed = [item for pair in zip(images, ["a=1"] * 6, strict=True) for item in pair]
    assert split_arguments(mixed) == (images, ["a=1"] * 6)


def test_a_memory_budget_is_kept_and_changes_no_result(root: Path, workplace: Path) -> None:
    plain = run_tool(root, workplace, "photos/plain.png", "checkpoint=model", "output=plain", "task=classification")
    assert plain.returncode == 0, plain.stderr
    small = run_tool(
        root,
        workplace,
        "photos/plain.png",
        "checkpoint=model",
        "output=small",
        "task=classification",
        "memory_budget=400kB",
    )
    assert small.returncode == 0, small.stderr
    planned, measured = (
        int(text.replace(",", "")) for text in re.findall(r"(?:planned|measured) ([\d,]+)", small.stdout)
    )
    assert planned == measured <= 400_000
    lines = [json.loads((workplace / name / "predictions.jsonl").read_text()) for name in ("plain", "small")]
    for ours, theirs in zip(lines[1]["classes"], lines[0]["classes"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=2e-6)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("memory_budget=much", "memory_budget must be an amount of memory such as 1MB, 512kB or 256KiB, got 'much'."),
        ("memory_budget=10kB", "10,000 bytes are too few for 64 x 64 pixels: no plan needs fewer than"),
    ],
)
def test_an_impossible_budget_is_reported(root: Path, workplace: Path, key: str, message: str) -> None:
    done = run_tool(root, workplace, "photos/plain.png", "checkpoint=model", "output=none", key)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_budget_and_several_views_are_refused(root: Path, workplace: Path) -> None:
    keys = ("memory_budget=1MB", "tta=multiscale_flip")
    done = run_tool(root, workplace, "photos/plain.png", "checkpoint=model", "output=none", *keys)
    assert done.returncode == 2
    assert "leave out one" in done.stderr


KILLED = """
import os, signal, sys
from mbv2kit.commands.infer import main
from mbv2kit.inference.writer import Writer

write, left = Writer.write, [int(sys.argv[1])]

def killing(*arguments):
    record = write(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return record

Writer.write = killing
main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_inference_goes_on_and_ends_as_one_that_was_not(root: Path, workplace: Path) -> None:
    folder = workplace / "many"
    folder.mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        PillowImage.fromarray(noise).save(folder / f"{number:02}.png")
    keys = ("many", "checkpoint=model", "runtime=torch", "min_score=0.3", "threads=2")
    assert run_tool(root, workplace, *keys, "output=whole").returncode == 0
    for kill in ("1", "5", "4"):
        command = [sys.executable, "-c", KILLED, kill, *keys, "output=killed", "resume=true"]
        done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert run_tool(root, workplace, *keys, "output=killed", "resume=true").returncode == 0
    whole, killed = (
        {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()}
        for output in (workplace / "whole", workplace / "killed")
    )
    assert killed == whole
    assert len(killed[Path("predictions.jsonl")].splitlines()) == 12
