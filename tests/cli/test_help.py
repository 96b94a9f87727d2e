"""The command line as a user meets it: help, slips, exit codes and sweeps."""

import contextlib
import os
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from mbv2kit.cli.command import run_command
from mbv2kit.errors import UserError
from tests.processes import run_forked

Run = Callable[..., int]

DESCRIPTION = """Sells fruit for $ and cents.

    mbv2kit toy fruit=pear
"""
TOY = """
defaults:
  - tool
  - _self_
  - fruit: apple
price: 1.5 # euros
# How it is packed, and for whom: this takes more words than fit into one line with the key, so that they are wrapped.
packing:
  box: null # "paper" or 'wood'; null: # none
  ribbon: {length: 2, colors: [red, "#0f0"]}
  # What the card says.
  card: Enjoy # the language is yours
run_dir: outputs/${fruit.name}
"""
FRUIT = """# A single {0}.
#
# It is fresh.
name: {0}
ripe: true
"""
HELP = """\
Sells fruit for $ and cents.

mbv2kit toy fruit=pear

GROUPS: group=choice takes a whole set of keys (* marks what this command line takes)
  fruit       apple, *pear

KEYS: key=value sets one of them

  price=1.5                             euros

packing: How it is packed, and for whom: this takes more words than fit into one line with the key,
  so that they are wrapped.
  packing.box=null                      "paper" or 'wood'; null: # none
  packing.ribbon.length=2
  packing.ribbon.colors=[red,#0f0]
  packing.card=Enjoy                    What the card says. the language is yours

  run_dir=outputs/${fruit.name}

fruit=pear: A single pear. It is fresh.
  fruit.ripe=true

FLAGS
  --cfg job       prints the whole configuration and runs nothing
  -m, --multirun  runs one job for every combination of values given as key=a,b
"""


@pytest.fixture
def toy(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a small tool of its own within this process, from an empty folder, and returns its exit code."""
    checkout, here = tmp_path / "checkout", tmp_path / "here"
    (checkout / "conf" / "fruit").mkdir(parents=True)
    (checkout / "conf" / "tool.yaml").write_text((root / "conf" / "tool.yaml").read_text())
    (checkout / "conf" / "toy.yaml").write_text(TOY)
    for fruit in ("apple", "pear"):
        (checkout / "conf" / "fruit" / f"{fruit}.yaml").write_text(FRUIT.format(fruit))
    here.mkdir()
    monkeypatch.chdir(here)

    def run(job: Callable[[DictConfig], int | None], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["toy.py"])
        with pytest.raises(SystemExit) as exit_:
            run_command("toy", DESCRIPTION, job, list(arguments), conf=checkout / "conf")
        assert isinstance(exit_.value.code, int)
        return exit_.value.code

    return run


def never(config: DictConfig) -> None:
    pytest.fail("the job was started")


def test_the_job_gets_the_configuration_and_its_result_is_the_exit_code(toy: Run) -> None:
    seen: list[DictConfig] = []
    assert toy(seen.append, "fruit=pear", "price=2") == 0
    (config,) = seen
    assert (config.fruit, config.price, config.run_dir) == ({"name": "pear", "ripe": True}, 2, "outputs/pear")
    assert toy(lambda _: 1) == 1


def test_nothing_is_left_behind(toy: Run) -> None:
    toy(lambda _: None)
    assert list(Path().iterdir()) == []


def test_help_shows_the_docstring_the_choices_and_the_meaning_of_the_keys(
    toy: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert toy(never, "--help", "fruit=pear") == 0
    assert capfd.readouterr().out == HELP


def test_help_is_as_wide_as_the_terminal(root: Path) -> None:
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    command = [sys.executable, "-m", "mbv2kit", "infer", "--help"]
    process = subprocess.Popen(command, stdout=terminal, cwd=root, env=environment)
    os.close(terminal)
    shown = b""
    # Linux answers with an error where others return nothing: the process has closed the terminal.
    with contextlib.suppress(OSError):
        while part := os.read(controller, 65536):
            shown += part
    os.close(controller)
    assert process.wait() == 0
    _, _, keys = shown.decode().replace("\r\n", "\n").partition("\nKEYS: ")
    wide = [line for line in keys.splitlines() if len(line) > 80]
    assert "  precision=" in keys
    assert wide == []


def test_cfg_prints_the_configuration_and_runs_nothing(toy: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert toy(never, "price=3", "--cfg", "job") == 0
    assert "price: 3\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("fruit=aple", "error: There is no fruit 'aple'. Did you mean 'apple'?\n"),
        ("prize=2", "error: There is no key 'prize'. Did you mean 'price'?\n"),
        ("--hepl", "error: There is no flag '--hepl'. Did you mean '--help'?\n"),
    ],
)
def test_a_slip_is_one_line_and_exit_code_2(
    toy: Run, capfd: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    assert toy(never, argument) == 2
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", message)


@pytest.mark.parametrize("flag", ["--config-path", "--config-name"])
def test_another_configuration_is_refused(toy: Run, capfd: pytest.CaptureFixture[str], flag: str) -> None:
    assert toy(never, flag, "elsewhere") == 2
    assert "conf/toy.yaml; add your own files with --config-dir DIR." in capfd.readouterr().err


def test_a_folder_of_further_choices(toy: Run, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[DictConfig] = []
    Path("mine", "fruit").mkdir(parents=True)
    Path("mine", "fruit", "plum.yaml").write_text("name: plum\n")
    assert toy(seen.append, "fruit=plum", "--config-dir", "mine") == 0
    assert toy(seen.append, "--config-dir=mine", "-m", "fruit=plum,pear") == 0
    assert [config.fruit.name for config in seen] == ["plum", "plum", "pear"]
    assert toy(never, "--help", "-cd", "mine") == 0
    assert "  fruit       *apple, pear, plum\n" in capfd.readouterr().out
    assert toy(never, "fruit=plum") == 2
    assert toy(never, "--config-dir", "elsewhere") == 2
    assert capfd.readouterr().err == (
        "error: There is no fruit 'plum'. Known: apple, pear.\n"
        "error: --config-dir elsewhere: there is no such folder.\n"
    )


def test_a_user_error_of_the_job_is_one_line_and_exit_code_2(toy: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def job(config: DictConfig) -> None:
        raise UserError("The apples are gone.")

    assert toy(job) == 2
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "error: The apples are gone.\n")


def test_a_fault_of_the_program_is_a_traceback_and_exit_code_1(toy: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def job(config: DictConfig) -> None:
        raise RuntimeError("worm")

    assert toy(job) == 1
    assert "RuntimeError: worm" in capfd.readouterr().err


def test_ctrl_c_is_quiet(toy: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def job(config: DictConfig) -> None:
        raise KeyboardInterrupt

    assert toy(job) == 130
    assert capfd.readouterr().err == ""


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(toy: Run, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, float, str]] = []

    def job(config: DictConfig) -> None:
        seen.append((config.fruit.name, config.price, config.run_dir))
        if config.price == 2:
            raise UserError(f"No {config.fruit.name} at that price.")

    assert toy(job, "fruit=apple,pear", "-m", "price=1,2", "run_dir=trial") == 2
    assert seen == [("apple", 1, "trial/0"), ("apple", 2, "trial/1"), ("pear", 1, "trial/2"), ("pear", 2, "trial/3")]
    assert capfd.readouterr().err == "error: No apple at that price.\nerror: No pear at that price.\n"
    assert [path.name for path in Path("outputs/sweeps").glob("*/*")] == ["multirun.yaml"]


def tool(root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_forked(root / "tools" / f"{name}.py", *arguments, cwd=root)


def test_train_help(root: Path) -> None:
    done = tool(root, "train", "--help", "task=detection")
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "  task        classification, *detection, multitask, segmentation",
        "  dataset     coco, folder, imagenet, *shapes, shards, voc",
        "  trainer     *cpu, gpu",
    ):
        assert line in done.stdout.splitlines()
    assert "*ssdlite" in done.stdout
    assert "mbv2kit train task=segmentation dataset=voc" in done.stdout


@pytest.mark.parametrize("name", ["convert", "cut_objects", "make_shards", "push"])
def test_help_asks_for_no_value(root: Path, name: str) -> None:
    done = tool(root, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"mbv2kit {name.replace('_', '-')} " in done.stdout
    assert re.search(r"^  \w+=VALUE +required: \w", done.stdout, re.MULTILINE)
    done = tool(root, name)
    assert done.returncode == 2
    assert "has no value; give one with" in done.stderr


def test_a_slip_costs_eval_one_line(root: Path) -> None:
    done = tool(root, "eval", "task=detecton")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: task=detecton: no finished run below {root / 'outputs'} has such a head. Did you mean 'detection'?\n"
    )
