"""``--help`` of the project's own commands says what every key means, whatever parts are chosen."""

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from mbv2kit.cli.config import compose, register_parts
from mbv2kit.cli.help import help_text
from mbv2kit.commands import COMMANDS
from mbv2kit.registry import Registry
from mbv2kit.training.parts import training_parts

KEY = re.compile(r"  ([\w.]+)=.*")


@pytest.fixture(scope="module")
def registries(root: Path) -> list[Registry[Any]]:
    parts = training_parts()
    register_parts(root / "conf", parts)
    return parts


def keys_of(root: Path, registries: list[Registry[Any]], command: str, *overrides: str) -> dict[str, str]:
    """Returns each key of a command's help with its meaning."""
    conf = root / "conf"
    config = compose(conf, command.replace("-", "_"), overrides, complete=False)
    text = help_text(conf, command.replace("-", "_"), config, "Does something.", registries)
    assert all(len(line) <= 100 or " " not in line.strip() for line in text.splitlines())
    meanings: dict[str, str] = {}
    key = ""
    for line in text.partition("KEYS:")[2].splitlines():
        if found := KEY.fullmatch(line):
            key = found[1]
            meanings[key] = line[40:] if "  " in line.lstrip() else ""
        elif line.startswith(" " * 40):
            meanings[key] += line
    return meanings


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_key_of_a_command_has_a_meaning(root: Path, registries: list[Registry[Any]], command: str) -> None:
    meanings = keys_of(root, registries, command)
    assert meanings
    assert [key for key, text in meanings.items() if not text.strip()] == []


def test_every_key_of_every_part_has_a_meaning(root: Path, registries: list[Registry[Any]]) -> None:
    choices = {registry.group: registry.names() for registry in registries}
    choices |= {"trainer": ["cpu", "gpu"], "task": ["classification", "detection", "segmentation"]}
    for names in zip_longest(*choices.values()):
        chosen = [f"{group}={name}" for group, name in zip(choices, names, strict=True) if name is not None]
        meanings = keys_of(root, registries, "train", *chosen)
        assert [key for key, text in meanings.items() if not text.strip()] == []


def test_an_experiment_gives_values_and_leaves_the_meaning(root: Path, registries: list[Registry[Any]]) -> None:
    plain = keys_of(root, registries, "train", "task=segmentation", "dataset=voc")
    tuned = keys_of(root, registries, "train", "experiment=camvid/finetune")
    assert plain.keys() == tuned.keys()
    assert [key for key in plain if plain[key].split() != tuned[key].split()] == []
