"""The demo trains its tasks at the same time, and reports those that finished."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mbv2kit.commands.demo import METRICS, main
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.process import usable_cores


def demo(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_every_task_trains_by_its_recipe_and_the_metrics_of_those_that_finish_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(commands: Mapping[str, Sequence[str]], threads: int) -> dict[str, int]:
        assert threads == max(1, usable_cores() // 3)
        for task, arguments in commands.items():
            folder = RunFolder(tmp_path / task)
            assert list(arguments[:3]) == ["train", f"experiment=shapes/{task}", f"run_dir='{folder.path}'"]
            if task != "detection":
                folder.model.mkdir(parents=True)
                (folder.model / "model.json").touch()
                folder.metrics.write_text(json.dumps({"task": task, "metrics": {METRICS[task]: 0.75}}))
        return {"classification": 0, "detection": 1, "segmentation": 0}

    monkeypatch.setattr("mbv2kit.commands.demo.run_together", run)
    assert demo(f"run_dir='{tmp_path}'") == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Trained in \d+\.\d minutes; metrics on images not trained on:", lines[1])
    assert [line.split()[:3] for line in lines[2:]] == [
        ["classification", "top1", "0.750"],
        ["segmentation", "mIoU", "0.750"],
    ]


def test_an_unknown_task_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("tasks=[detecton]") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: tasks must be a list, each one of classification, detection, segmentation")
    assert said.endswith("got ['detecton'].\n")


@pytest.mark.slow
def test_a_demo_that_is_told_to_stop_saves_its_runs(root: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, root / "tools" / "demo.py", "tasks=[classification]", f"run_dir='{tmp_path}'"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "epoch 1/" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert "SIGTERM: stopped and saved; go on with: " in lines[-1]
    assert (RunFolder(tmp_path / "classification").checkpoints / "last.ckpt").is_file()
