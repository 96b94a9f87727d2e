"""The console command ``mbv2kit``: its list of commands, its mistakes, and its doors in ``tools/``."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from mbv2kit import __version__, commands
from mbv2kit.commands import COMMANDS, main
from tests.processes import run_forked

# Their choices come from registries that import torch.
IMPORTS_TORCH = dict.fromkeys(("train", "eval", "export"), pytest.mark.slow)
MODULES = [pytest.param(name.replace("-", "_"), marks=IMPORTS_TORCH.get(name, ())) for name in COMMANDS]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_every_module_is_a_command_with_a_door_in_tools(root: Path) -> None:
    modules = {module.name for module in iter_modules(commands.__path__)}
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    assert {path.stem for path in (root / "tools").glob("*.py")} == modules


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands_with_their_first_lines(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        doc = import_module(f"mbv2kit.commands.{name.replace('-', '_')}").__doc__
        assert doc is not None
        assert f"  {name:<12} {doc.splitlines()[0]}" in lines


@pytest.mark.parametrize("name", ["--version", "-V", "version"])
def test_version(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(name) == 0
    assert capsys.readouterr().out == f"mbv2kit {__version__}\n"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trian", "train"),
        ("cut_objects", "cut-objects"),
        ("evaluate", "eval"),
        ("predict", "infer"),
        ("--versoin", None),
    ],
)
def test_an_unknown_command_is_one_line_with_the_nearest(
    capsys: pytest.CaptureFixture[str], name: str, meant: str | None
) -> None:
    assert run(name, "task=detection") == 2
    hint = f"Did you mean '{meant}'?" if meant else "Known: benchmark, convert, "
    assert capsys.readouterr().err.startswith(f"error: There is no command '{name}'. {hint}")


def test_a_command_gets_the_rest_of_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("cut-objects", "--cfg", "job", "output=cells", "margin=0.25") == 0
    assert "margin: 0.25\n" in capfd.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"], ["infer", "--help"]])
def test_help_starts_fast(root: Path, tmp_path: Path, arguments: list[str]) -> None:
    script = (
        f"import sys\nfrom mbv2kit.commands import main\ntry:\n    main({arguments!r})\n"
        "finally:\n    print('IMPORTED', *sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    imported = set(done.stdout.partition("IMPORTED ")[2].split())
    assert not imported & {"torch", "cv2", "lightning", "onnxruntime"}
    assert not imported & {"hydra", "numpy"} or len(arguments) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", [pytest.param(name.replace("-", "_"), marks=IMPORTS_TORCH.get(name, ())) for name in COMMANDS]
)
def test_every_tool_answers_help_and_does_nothing_else(root: Path, tmp_path: Path, module: str) -> None:
    done = run_forked(root / "tools" / f"{module}.py", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"mbv2kit {module.replace('_', '-')}" in done.stdout
    assert list(tmp_path.iterdir()) == []
