"""Commands that run at the same time share the screen, and end together."""

import pytest

from mbv2kit import __version__
from mbv2kit.cli.together import run_together


def test_each_line_has_its_label_and_each_command_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    codes = run_together({"one": ["--version"], "three": ["trian"]}, threads=1)
    assert codes == {"one": 0, "three": 2}
    lines = capfd.readouterr().out.splitlines()
    assert f"one    mbv2kit {__version__}" in lines
    assert any(line.startswith("three  error: There is no command 'trian'") for line in lines)


def test_no_commands_are_no_mistake() -> None:
    assert run_together({}, threads=1) == {}
