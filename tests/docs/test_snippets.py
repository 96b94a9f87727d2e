"""Every command and snippet of the pages runs, or says why it does not."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from mbv2kit.commands import COMMANDS
from tests.docs.conftest import FIRST_RUN, run_command
from tests.docs.markdown import PAGES, ROOT, Block, blocks, inline_commands

# Commands that run on small data, with the overrides that make them cheap; all others are composed and checked only.
RUN = {
    "mbv2kit infer photos/ checkpoint=outputs/first": "",
    "mbv2kit infer photos/ checkpoint=outputs/first runtime=auto": "runtime=onnxruntime",
    "mbv2kit infer photos/ checkpoint=outputs/first memory_budget=512kB": "",
    "mbv2kit infer photos/ checkpoint=outputs/first then=outputs/kinds": "",
    "mbv2kit eval checkpoint=outputs/first": "loader.workers=0",
    "mbv2kit eval checkpoint=outputs/first/model/model.onnx runtime=onnxruntime": "loader.workers=0",
    "mbv2kit cut-objects dataset=voc dataset.root=cells output=crops": "",
    "mbv2kit push repository=OWNER/NAME checkpoint=outputs/first dry_run=card": "",
}
# What stands for several things in the text, and one of them.
PLACEHOLDERS = {"experiment=NAME": "experiment=bccd/finetune", "optimizer.lr=RATE": "optimizer.lr=0.01"}
# Languages of blocks that show what is printed or how folders look.
SHOWN = {"text", "json"}


def _id(value: Path | Block) -> str:
    return value.name if isinstance(value, Path) else f"{value.page}:{value.line}"


def _all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", _all_blocks(), ids=_id)
def test_every_block_can_be_run_or_is_marked(block: Block) -> None:
    known = {"python", "bash", "console", *SHOWN} | ({"yaml", "toml"} if block.title else set())
    assert block.language in known, "name the language, or add <!-- not run: REASON --> before the block"
    assert block.reason is None or block.language not in SHOWN, "what is only shown needs no reason"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "extend.md"], ids=_id)
def test_the_blocks_of_a_page_run_in_their_order(
    page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What one block defines, the next ones may use.
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.title is not None:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), namespace)
        elif block.language == "bash":
            for line in block.commands():
                check_line(line)
        elif block.language == "console":
            check_console(block, capsys)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "extend.md"], ids=_id)
def test_commands_in_the_text_compose(page: Path, workplace: Path) -> None:
    for line in inline_commands(page):
        check_line(line, inline=True)


def test_the_table_of_commands_to_run_has_no_stale_line() -> None:
    lines = {line for block in _all_blocks() for line in block.commands()}
    assert [line for line in (*RUN, FIRST_RUN) if line not in lines] == []


def check_line(line: str, *, inline: bool = False) -> None:
    """Runs, composes or checks one line of a shell."""
    if line.startswith("mbv2kit "):
        _check_command(line, inline=inline)
    elif line.startswith("make "):
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert line.split()[1] in targets, line
    elif "pip install " in line:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {name for group in re.findall(r"\[([\w,]+)\]", line) for name in group.split(",")} <= set(extras), line
    elif "python -m pytest" in line:
        words = shlex.split(line)
        assert all((ROOT / word).exists() for word in words if word.startswith("tests")), line
    elif module := re.match(r"python -m ((?:docs|tests)\.[\w.]+)", line):
        assert (ROOT / module[1].replace(".", "/")).with_suffix(".py").exists(), line
    elif tool := re.match(r"python ((?:tools|docs/scripts)/\w+\.py)", line):
        assert (ROOT / tool[1]).exists(), line
    else:
        assert re.match(r"\.venv/bin/(pre-commit|python) ", line), f"nothing runs '{line}'"


def _check_command(line: str, *, inline: bool) -> None:
    line = " ".join(line.split())
    name, *arguments = line.split()[1:]
    assert name in COMMANDS, line
    if line in RUN and not inline:
        assert run_command(line, *RUN[line].split()) == 0, line
    elif line != FIRST_RUN and (arguments or not inline):
        for placeholder, value in PLACEHOLDERS.items():
            line = line.replace(placeholder, value)
        # Hydra shows no sweep, but its first job.
        line = re.sub(r" -m (.*=[\w.]+),\S+", r" \1", line)
        assert run_command(line, *([] if "--help" in line else ["--cfg", "job"])) == 0, line


def check_console(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a command that fails, and compares what it prints."""
    command, *printed = block.text.splitlines()
    capsys.readouterr()
    assert run_command(command.removeprefix("$ ")) == 2
    assert capsys.readouterr().err.splitlines() == printed
