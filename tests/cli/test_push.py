"""`mbv2kit push` as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mbv2kit.commands.push import job
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from tests.fake_hub import FakeHub
from tests.weights.test_hub import METRICS

Run = Callable[..., int]
FILES = {"README.md", "metrics.json", "model.json", "model.safetensors"}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run below outputs/."""
    folder = tmp_path / "outputs" / "classification" / "folder" / "monday"
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.1},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": ("cat", "dog")},
        input=Preprocess((64, 64)),
    )
    VisionModel(spec).save(folder / "model")
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


@pytest.mark.parametrize("named", [False, True])
def test_dry_run_writes_what_would_be_uploaded(
    run: Run, finished: Path, capfd: pytest.CaptureFixture[str], named: bool
) -> None:
    checkpoint = [f"checkpoint={finished}"] if named else []
    assert run("push", job, "repository=me/cats", "dry_run=card", *checkpoint) == 0
    assert {path.name for path in Path("card").iterdir()} == FILES
    for file in ("model.json", "model.safetensors"):
        assert (Path("card") / file).read_bytes() == (finished / "model" / file).read_bytes()
    assert (Path("card") / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert "checkpoint=hub:me/cats\n" in (Path("card") / "README.md").read_text()
    said = capfd.readouterr()
    assert (
        said.out == f"Nothing was uploaded; card holds what would be. Read the model card: {Path('card/README.md')}\n"
    )
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "'repository' has no value; give one with repository=VALUE."),
        ("repository=cats", "repository must be text of the form OWNER/NAME, got 'cats'."),
        ("repository=me/cats checkpoint=nowhere", "checkpoint=nowhere is neither a run folder nor a model folder."),
        ("repository=me/cats dry_run=outputs", "outputs is not empty; name a new folder with dry_run=FOLDER."),
        (
            "repository=me/cats message=null",
            "message must be text with at least one character",
        ),
        ("repository=7", "repository must be text of the form OWNER/NAME, got '7'."),
        ("repository=me/cats private=perhaps", "private must be"),
        ("repositry=me/cats", "There is no key 'repositry'. Did you mean 'repository'?"),
    ],
)
def test_a_slip_is_one_line(
    run: Run, finished: Path, capfd: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert run("push", job, *arguments.split()) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_without_a_finished_run_one_is_asked_for(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("push", job, "repository=me/cats") == 2
    assert "There is no finished run below " in capfd.readouterr().err


@pytest.mark.slow
def test_the_real_tool_publishes_and_the_environment_names_the_hub(
    root: Path, hub: FakeHub, finished: Path, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {
        "PYTHONPATH": str(root),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }

    def push(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / "tools" / "push.py"), "repository=me/cats", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = push("message=First figures", "private=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{(finished / 'model').relative_to(tmp_path)} is now at {hub.url}/me/cats\n"
    repository = hub.repositories["me/cats"]
    assert repository.private
    assert repository.commits[-1].message == "First figures"
    assert repository.commits[-1].files.keys() == FILES

    hub.read_only = True
    done = push()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: me/cats could not be published on the Hugging Face Hub, because you have no permission; log in"
    )
    assert done.stderr.count("\n") == 1
