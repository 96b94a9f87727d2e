"""A command without its packages: one sentence that says what to install."""

import re
import tomllib
from pathlib import Path

import pytest

from mbv2kit.cli.extras import FURTHER, TRAIN, explain_missing
from mbv2kit.errors import UserError


@pytest.mark.parametrize(("extra", "packages"), [("train", TRAIN), *FURTHER.items()])
def test_the_packages_are_those_of_the_extra(root: Path, extra: str, packages: frozenset[str]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    required = [re.split("[<>=]", requirement)[0] for requirement in project["optional-dependencies"][extra]]
    names = {name.partition("[")[0].replace("-", "_") for name in required}
    # A URL may need more: whatever fsspec reads it with.
    assert packages <= names if extra == "shards" else packages == names


def test_a_missing_package_is_a_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"^mbv2kit train needs torch and more: pip install 'mbv2kit\[train\]'$"),
        explain_missing("train"),
    ):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    with pytest.raises(UserError, match=r"mbv2kit push needs onnx and more: pip install 'mbv2kit\[weights\]'$"):
        explain_missing("push", "weights")(_import_onnx)()


def _import_onnx() -> None:
    raise ModuleNotFoundError("No module named 'onnx'", name="onnx")


def test_a_fault_of_the_program_stays_what_it_is() -> None:
    with pytest.raises(ModuleNotFoundError), explain_missing("train"):
        raise ModuleNotFoundError("No module named 'mbv2kit.nothing'", name="mbv2kit.nothing")
