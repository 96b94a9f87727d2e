"""What a job says on screen and in its log file."""

import logging
import warnings
from pathlib import Path

import pytest

from mbv2kit.cli.logs import log_to, set_up_logging


def test_the_file_holds_what_was_said_before_it_was_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "run" / "train.log"
    set_up_logging()
    logging.getLogger("mbv2kit.anything").info("before")
    assert not file.parent.exists()
    log_to(file)
    logging.getLogger("mbv2kit.anything").warning("after %d", 2)
    lines = file.read_text().splitlines()
    assert [line.partition(",")[2][4:] for line in lines] == ["INFO before", "WARNING after 2"]
    said = capfd.readouterr()
    assert said.out == ""
    assert "before" in said.err
    assert "after 2" in said.err


def test_a_second_run_of_a_process_writes_to_its_own_file_and_a_resumed_one_to_the_old(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("a", "three")):
        set_up_logging()
        log_to(tmp_path / name)
        logging.getLogger("mbv2kit").info(text)
    assert [line.split()[-1] for line in (tmp_path / "a").read_text().splitlines()] == ["one", "three"]
    assert [line.split()[-1] for line in (tmp_path / "b").read_text().splitlines()] == ["two"]


def test_libraries_chatter_is_quiet_and_their_other_warnings_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: False")
    assert capfd.readouterr().err == ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_up_logging()
        warnings.warn("Found 216 module(s) in eval mode at the start of training. This may lead to", stacklevel=1)
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(", stacklevel=1)
        warnings.warn("Checkpoint directory /runs/a exists and is not empty.", stacklevel=1)
        warnings.warn("something new", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something new"]
