"""Output to a terminal fits it; output to a pipe or a file is whole."""

import logging

import pytest

from mbv2kit.cli.console import open_console
from mbv2kit.cli.logs import show_log
from mbv2kit.evaluation.scores import Scores, print_scores

NAME = "a class whose name is as long as a sentence, " * 4


def test_a_table_in_a_pipe_is_not_cut(capfd: pytest.CaptureFixture[str]) -> None:
    print_scores(Scores(metrics={"top1": 0.5}, per_class={NAME: {"top1": 0.25, "images": 4}}))
    assert [line for line in capfd.readouterr().out.splitlines() if NAME.strip() in line and "0.25" in line]


def test_a_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    assert open_console().width == 60


@pytest.mark.usefixtures("clean_process")
def test_a_message_in_a_pipe_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    show_log()
    logging.getLogger("mbv2kit.anything").info(NAME)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(f" INFO {NAME}")
