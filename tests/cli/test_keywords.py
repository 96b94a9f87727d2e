import math
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.config import compose_config, conf_folder, register_parts
from mbv2kit.cli.keywords import compose_in_program, to_overrides
from mbv2kit.data.sources import SOURCES
from mbv2kit.errors import UserError
from mbv2kit.training.parts import training_parts

# A command line cannot hold a zero byte.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
single_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(single_values, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def compose(keys: dict[str, Any]) -> DictConfig:
    return compose_in_program("train", to_overrides(keys), training_parts())


def read_back(overrides: list[str]) -> dict[str, Any]:
    parsed = OverridesParser.create().parse_overrides(overrides)
    return {override.key_or_group: override.value() for override in parsed}


@given(values)
def test_a_value_means_on_the_command_line_what_it_means_in_python(value: Any) -> None:
    (read,) = read_back(to_overrides({"key": value})).values()
    assert read == value
    assert type(read) is type(value)


def test_values_of_other_types_become_plain_ones() -> None:
    keys = {
        "path": Path("a b") / "c",
        "tuple": (1, (2, "3")),
        "integer": np.int64(3),
        "float": np.float32(0.5),
        "flag": np.bool_(True),
        "node": OmegaConf.create([1, 2]),
    }
    assert read_back(to_overrides(keys)) == {
        "path": "a b/c",
        "tuple": [1, [2, "3"]],
        "integer": 3,
        "float": 0.5,
        "flag": True,
        "node": [1, 2],
    }
    (number,) = read_back(to_overrides({"key": math.nan})).values()
    assert math.isnan(number)


def test_nested_dictionaries_are_dotted_keys() -> None:
    nested = {"trainer": {"max_epochs": 3, "precision": "32-true"}, "loader": OmegaConf.create({"workers": 0})}
    dotted = {"trainer.max_epochs": 3, "trainer": {"precision": "32-true"}, "loader.workers": 0}
    assert to_overrides(nested) == to_overrides(dotted)
    assert to_overrides(OrderedDict(nested)) == to_overrides(nested)
    assert to_overrides({"trainer": {}}) == []


def test_the_name_in_a_dictionary_is_the_choice_of_a_group() -> None:
    nested = {"dataset": {"name": "voc", "root": "cells"}}
    assert to_overrides(nested) == to_overrides({"dataset": "voc", "dataset.root": "cells"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"key": object()}, r"key must be None, a boolean, .* got builtins\.object"),
        ({"key": {1, 2}}, r"got builtins\.set"),
        ({"a": {"b": [np.zeros(3)]}}, r"a\.b must be .* got numpy\.ndarray"),
        ({"key": [{"a": 1}]}, r"key must be .* got builtins\.dict"),
        ({"+key": 1}, r"There is no key '\+key'"),
        ({"~key": 1}, "There is no key '~key'"),
        ({"a": {"b c": 1}}, r"There is no key 'a\.b c'"),
        ({"a": {1: 2}}, r"There is no key 'a\.1'"),
        ({"hydra.run.dir": "x"}, r"There is no key 'hydra\.run\.dir'"),
        ({"hydra": {"verbose": True}}, "There is no key 'hydra'"),
        ({"a.b": 1, "a": {"b": 2}}, r"'a\.b' is given twice"),
        ({"dataset": "voc", "": 1}, "There is no key ''"),
    ],
)
def test_what_no_command_line_can_hold_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_overrides(keys)


def test_keywords_and_the_command_line_compose_the_same_configuration() -> None:
    keywords = compose(
        {
            "task": "detection",
            "dataset": {"name": "voc", "root": Path("my cells")},
            "backbone.width": 0.5,
            "input": {"size": (96, 128)},
            "trainer": {"max_epochs": 3, "early_stopping_patience": None},
            "run_dir": "outputs/x",
        },
    )
    register_parts(conf_folder(), training_parts())
    lines = "task=detection dataset=voc backbone.width=0.5 input.size=[96,128] trainer.max_epochs=3 run_dir=outputs/x"
    assert keywords == compose_config(conf_folder(), "train", [*lines.split(), "dataset.root='my cells'"])


def test_a_string_stays_text() -> None:
    config = compose({"task": "detection", "dataset": "voc", "dataset.root": "2012", "dataset.train_split": "null"})
    assert (config.dataset.root, config.dataset.train_split) == ("2012", "null")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trainer": {"max_epoch": 3}}, r"There is no key 'trainer\.max_epoch'\. Did you mean 'trainer\.max_epochs'\?"),
        ({"trainer.max_epochs": "3"}, r"trainer\.max_epochs must be a whole number from 1 .*, got '3'"),
        ({"dataset": "voq"}, r"There is no dataset 'voq'\. Did you mean 'voc'\?"),
        ({"dataset": {"name": 3}}, "dataset"),
        ({"task": "detect"}, r"There is no task 'detect'\. Did you mean 'detection'\?"),
        ({"seed": [1, 2]}, "seed must be"),
    ],
)
def test_mistakes_are_those_of_the_command_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(keys)


def test_an_experiment_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text("# @package _global_\nbackbone:\n  width: 0.35\n")
    assert compose({"experiment": recipe}).backbone.width == 0.35
    with pytest.raises(UserError, match="there is no such file"):
        compose({"experiment": "./none.yaml"})


def test_hydra_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {part.group for part in training_parts()}
    store, cfg = ConfigStore.instance(), HydraConfig.instance().cfg
    others = {name: node for name, node in store.repo.items() if name not in groups}
    monkeypatch.setattr(store, "repo", others | {"dataset": {"theirs.yaml": None}})
    for keys in ({"task": "detection"}, {"task": "nothing"}):
        with suppress(UserError):
            compose(keys)
        assert not GlobalHydra.instance().is_initialized()
        assert HydraConfig.instance().cfg is cfg
        assert store.repo["dataset"] == {"theirs.yaml": None}
        assert groups & store.repo.keys() == {"dataset"}


def test_a_plugin_is_a_module_or_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mbv2kit.registry.plugins._packages", set())
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr(SOURCES, "_builders", dict(SOURCES._builders))
    monkeypatch.setattr(SOURCES, "_defaults", dict(SOURCES._defaults))
    Path("dots_kit.py").write_text(
        "from mbv2kit.data.sources import SOURCES, Source\n"
        "@SOURCES.register('dots')\n"
        "class Dots(Source):\n"
        "    provides, layout = frozenset({'classification'}), ''\n"
        "    def __init__(self, *, task, split, radius=3): ...\n"
    )
    overrides = to_overrides({"plugins": ["dots_kit"], "dataset": {"name": "dots", "radius": 5}})
    config = compose_in_program("train", overrides, training_parts())
    assert (config.plugins, config.dataset.radius) == (["dots_kit"], 5)
    assert to_overrides({"plugins": [sys.modules["dots_kit"]]}) == overrides[:1]
    monkeypatch.delitem(sys.modules, "dots_kit")
