"""Faults in the data give one sentence with loader workers, in training and in evaluation."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mbv2kit.commands.eval import job as evaluate
from mbv2kit.commands.train import job as train
from tests.cli.conftest import of_folders

Run = Callable[..., int]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_sentence_and_the_corrected_command_trains(
    run: Run, tiny: list[str], folders: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    command = (*of_folders(tiny, folders), f"loader.workers={workers}", "run_dir=OUT")
    damaged = folders / "train" / "red" / "2.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert run("train", train, *command) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert str(damaged) in sentence
    assert said.endswith(f"{sentence}\n")

    damaged.write_bytes(whole)
    assert run("train", train, *command) == 0

    (folders / "val" / "blue" / "1.png").write_bytes(b"no image")
    assert run("eval", evaluate, "checkpoint=OUT", f"loader.workers={workers}") == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert f"error: {folders / 'val' / 'blue' / '1.png'}" in said
