import json
import os
from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.models.run_folder import RunFolder, newest_finished_run


def make_run(path: Path, task: str, *, time: int, model: bool = True, metrics: bool = True) -> Path:
    (path / "model").mkdir(parents=True)
    if model:
        (path / "model" / "model.json").write_text("{}")
    if metrics:
        (path / "metrics.json").write_text(json.dumps({"task": task}))
        os.utime(path / "metrics.json", (time, time))
    return path


def test_a_run_knows_its_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    names = {"config.yaml", "train.log", "metrics.json", "model", "checkpoints", "plots", "predictions"}
    paths = {run.config, run.log, run.metrics, run.model, run.checkpoints, run.plots, run.predictions}
    assert paths == {tmp_path / name for name in names}


@pytest.mark.parametrize(
    ("model", "metrics", "finished"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_run_is_finished_when_it_has_model_and_figures(
    tmp_path: Path, model: bool, metrics: bool, finished: bool
) -> None:
    make_run(tmp_path / "run", "detection", time=1, model=model, metrics=metrics)
    assert RunFolder(tmp_path / "run").finished is finished


def test_the_newest_run_is_the_one_that_finished_last_whatever_its_name(tmp_path: Path) -> None:
    newest = make_run(tmp_path / "detection" / "voc" / "a", "detection", time=300)
    make_run(tmp_path / "detection" / "voc" / "z", "detection", time=100)
    make_run(tmp_path / "segmentation" / "voc" / "b", "segmentation", time=200)
    assert newest_finished_run(outputs=tmp_path).path == newest


def test_only_runs_of_the_task_count(tmp_path: Path) -> None:
    make_run(tmp_path / "detection" / "a", "detection", time=300)
    expected = make_run(tmp_path / "anywhere" / "b", "segmentation", time=200)
    assert newest_finished_run("segmentation", tmp_path).path == expected


def test_unfinished_runs_and_evaluations_do_not_count(tmp_path: Path) -> None:
    expected = make_run(tmp_path / "a", "detection", time=100)
    make_run(tmp_path / "b", "detection", time=200, metrics=False)
    make_run(tmp_path / "eval" / "c", "detection", time=300, model=False)
    assert newest_finished_run("detection", tmp_path).path == expected


@pytest.mark.parametrize("task", [None, "detection"])
@pytest.mark.parametrize("content", [b"", b'{"task": "detec', b"[1, 2]", b'{"seconds": 3}', b"\xff\xfe"])
def test_a_run_with_damaged_figures_does_not_count(tmp_path: Path, content: bytes, task: str | None) -> None:
    expected = make_run(tmp_path / "a", "detection", time=100)
    damaged = make_run(tmp_path / "b", "detection", time=200) / "metrics.json"
    damaged.write_bytes(content)
    assert newest_finished_run(task, tmp_path).path == expected


def test_without_a_run_the_message_says_what_to_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "detection", time=100)
    with pytest.raises(UserError, match=r"no finished segmentation run below .*mbv2kit train task=segmentation"):
        newest_finished_run("segmentation", tmp_path)
    with pytest.raises(UserError, match="no finished run below"):
        newest_finished_run(outputs=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\0\0\0", "it is empty"),
        ("dataset: {name: shapes}".encode("utf-16"), "it is not encoded in UTF-8"),
        (b"dataset: {name: sha", "while parsing"),
        (b"- dataset", "it holds no keys"),
        (b"dataset: &a [x]\nseed: *a", "it has aliases"),
        (b"[" * 50_000, "it is nested too deeply"),
        (b"seed: 0", r"dataset must be a set of keys, got null"),
        (b"dataset: shapes", r"dataset must be a set of keys, got 'shapes'"),
        (
            b"dataset: {name: folder, root: '${oc.env:SECRET}'}",
            r"refers to another value, '\$\{oc\.env:SECRET",
        ),
        (b"dataset: {name: shapes}\nrun_dir: ['${now:%Y}']", "refers to another value"),
    ],
)
def test_a_damaged_or_foreign_configuration_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setenv("SECRET", "of mine")
    run = RunFolder(tmp_path)
    run.config.write_bytes(content)
    with pytest.raises(UserError, match=rf"config\.yaml.* {message}") as error:
        run.dataset("detection")
    assert "of mine" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert run.config.read_bytes() == content
