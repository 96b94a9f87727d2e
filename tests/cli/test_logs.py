"""What a job reports on the screen and in its log file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path

import pytest

from mbv2kit.cli.logs import job_log, log_to, show_log

OWN = logging.getLogger("mbv2kit.anything")


@contextmanager
def program(*handlers: logging.Handler) -> Iterator[logging.Logger]:
    """The root logger of a program with these handlers alone; pytest's come back at the end."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers = list(handlers)
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers = before
        root.setLevel(level)


def test_the_file_holds_what_was_reported_before_it_was_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "run" / "train.log"
    with program(), job_log():
        OWN.info("before")
        assert not file.parent.exists()
        log_to(file)
        OWN.warning("after %d", 2)
    OWN.warning("when all is over")
    lines = file.read_text().splitlines()
    assert [line.partition(",")[2][4:] for line in lines] == ["INFO before", "WARNING after 2"]
    said = capfd.readouterr()
    assert said.out == ""
    assert "before" in said.err
    assert "after 2" in said.err


def test_a_command_shows_every_line_once(capfd: pytest.CaptureFixture[str]) -> None:
    with program():
        show_log()
        OWN.info("before")
        with job_log():
            OWN.info("within")
        OWN.info("after")
    said = capfd.readouterr()
    assert said.out == ""
    assert [line.split()[-1] for line in said.err.splitlines()] == ["before", "within", "after"]


def test_a_second_run_of_a_process_writes_to_its_own_file_and_a_resumed_one_to_the_old(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("a", "three")):
        with job_log():
            log_to(tmp_path / name)
            OWN.info(text)
    assert [line.split()[-1] for line in (tmp_path / "a").read_text().splitlines()] == ["one", "three"]
    assert [line.split()[-1] for line in (tmp_path / "b").read_text().splitlines()] == ["two"]


def test_the_logging_of_the_program_gets_the_report_and_stays(tmp_path: Path) -> None:
    stream = StringIO()
    own = logging.StreamHandler(stream)
    levels = {name: logging.getLogger(name).level for name in ("mbv2kit", "lightning", "matplotlib")}
    filters = warnings.filters[:]
    with program(own) as root:
        with suppress(RuntimeError), job_log():
            log_to(tmp_path / "log")
            OWN.info("trained")
            logging.getLogger("their.module").info("not of interest")
            raise RuntimeError
        assert root.handlers == [own]
    assert stream.getvalue() == "trained\n"
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert warnings.filters == filters


def test_a_program_may_quiet_the_report(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mbv2kit")
    logger.setLevel(logging.ERROR)
    try:
        with program() as root:
            with job_log():
                OWN.warning("nothing to see")
            assert root.handlers == []
    finally:
        logger.setLevel(logging.NOTSET)
    assert capfd.readouterr().err == ""


def test_libraries_chatter_is_quiet_and_their_other_warnings_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    with program(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with job_log():
            logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: False")
            warnings.warn("Found 216 module(s) in eval mode at the start of training. This may lead to", stacklevel=1)
            warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(", stacklevel=1)
            warnings.warn("Checkpoint directory /runs/a exists and is not empty.", stacklevel=1)
            warnings.warn("something new", stacklevel=1)
    assert capfd.readouterr().err == ""
    assert [str(warning.message) for warning in caught] == ["something new"]
