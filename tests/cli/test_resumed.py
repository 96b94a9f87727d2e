"""What a command line that resumes a run may say: the keys of the run's own parts, and what repeats the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mbv2kit.cli.resumed import with_parts_of_run
from mbv2kit.commands.train import job
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.parts import training_parts
from tests.cli.runs import checkpoint

Run = Callable[..., int]


@pytest.fixture
def coco_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of a run, as far as the command line depends on it."""
    monkeypatch.chdir(tmp_path)
    Path("RUN").mkdir()
    values = {"task": {"name": "detection"}, "dataset": {"name": "coco"}, "optimizer": {"name": "gone"}, "head": None}
    OmegaConf.save(values, RunFolder(Path("RUN")).config)


@pytest.mark.usefixtures("coco_run")
@pytest.mark.parametrize(
    ("line", "added"),
    [
        ("resume=RUN dataset.annotations=a.json", ["dataset=coco", "task=detection"]),
        ("resume='RUN' dataset.annotations=a.json task=detection", ["dataset=coco"]),
        ("resume=RUN dataset=coco dataset.annotations=a.json", []),
        # What is gone, or damaged, is reported with the whole configuration.
        ("resume=RUN optimizer.lr=1 head.dropout=1", ["task=detection"]),
        ("resume=RUN trainer.max_epochs=9", []),
        ("resume=ELSEWHERE dataset.annotations=a.json", []),
        ("resume=null dataset.annotations=a.json", []),
        ("dataset.annotations=a.json", []),
        ("resume=RUN dataset.annotations=[", []),
    ],
)
def test_the_parts_of_the_run_are_chosen_for_the_keys_that_are_set(line: str, added: list[str]) -> None:
    assert with_parts_of_run(line.split(), training_parts()) == [*added, *line.split()]


def test_keys_of_the_parts_of_a_run_can_be_changed(
    quick: Callable[..., RunFolder], run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = quick("optimizer=sgd", "scheduler=constant")
    keys = ("resume=run", "trainer.max_epochs=3", "optimizer=sgd", "backbone=little", "optimizer.momentum=0.125")
    assert run("train", job, *keys) == 0
    assert checkpoint(folder)["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.125
    said = capfd.readouterr().err
    assert (
        "goes on with optimizer.momentum=0.125 (was 0.9), trainer.max_epochs=3 (was 2); what follows may differ" in said
    )
    assert run("train", job, "resume=run", "optimizer.momentun=0.5") == 2
    assert "There is no key 'optimizer.momentun'. Did you mean 'optimizer.momentum'?" in capfd.readouterr().err


def test_a_change_that_a_finished_run_does_not_need_is_told(
    run: Run, tiny: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("train", job, *tiny, "run_dir=RUN", "trainer.limit_val_batches=0") == 0
    before = Path("RUN/config.yaml").read_bytes()
    assert run("train", job, "resume=RUN", "optimizer.lr=0.5", "seed=0") == 0
    said = capfd.readouterr().err
    assert "RUN is finished, and optimizer.lr would change nothing; set a larger trainer.max_epochs to go on" in said
    assert Path("RUN/config.yaml").read_bytes() == before
