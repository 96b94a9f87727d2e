"""The console command: ``mbv2kit NAME ...`` runs the module of this package that is called NAME."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import mbv2kit
from mbv2kit.errors import nearest

COMMANDS = (
    "train",
    "eval",
    "infer",
    "serve",
    "export",
    "convert",
    "push",
    "demo",
    "cut-objects",
    "make-shards",
    "paper",
    "benchmark",
)
# What other tools call our commands.
_OTHER_NAMES = {
    **dict.fromkeys(("fit", "finetune"), "train"),
    **dict.fromkeys(("evaluate", "val", "validate", "test"), "eval"),
    **dict.fromkeys(("predict", "inference", "detect", "segment", "classify"), "infer"),
    "upload": "push",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the first argument names, on the others, and exits.

    Args:
        argv: The command line; None takes that of this process.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        import_module(f"{__name__}.{_module(name)}").main(arguments)
    if name in ("--help", "-h", "help"):
        print(_help(), end="")
        sys.exit(0)
    if name in ("--version", "-V", "version"):
        print(f"mbv2kit {mbv2kit.__version__}")
        sys.exit(0)
    hint = f" Did you mean '{_OTHER_NAMES[name]}'?" if name in _OTHER_NAMES else nearest(name, COMMANDS)
    print(f"error: There is no command '{name}'.{hint}", file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    commands = "\n".join(f"  {name:<12} {_summary(name)}" for name in COMMANDS)
    return f"""{(mbv2kit.__doc__ or "").partition(chr(10))[0]}

mbv2kit COMMAND [KEY=VALUE ...]

{commands}

`mbv2kit COMMAND --help` explains a command and lists its keys.
"""


def _summary(name: str) -> str:
    # Read, not imported: importing every command would take several times as long.
    text = Path(__file__).with_name(f"{_module(name)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def _module(name: str) -> str:
    return name.replace("-", "_")
