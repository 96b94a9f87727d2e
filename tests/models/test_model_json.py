"""A model.json that someone else wrote, or that is damaged, is one sentence that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbv2kit.errors import UserError
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.vision_model import VisionModel
from tests.exporting.models import saved, small_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(small_model("classification"), tmp_path)


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Returns what sets a value at a dotted path; the value ``put`` takes the key away."""

    def change(values: dict[str, Any]) -> None:
        *sections, key = path.split(".")
        for section in sections:
            values = values[section]
        if value is put:
            del values[key]
        else:
            values[key] = value

    return change


def assert_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], read: Callable[[], object], message: str
) -> None:
    """Changes a ``model.json`` and checks that reading it is one line which names the file."""
    description = folder / "model.json"
    values = json.loads(description.read_text())
    change(values)
    description.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"{description} .*{message}") as error:
        read()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((put(key, put), f"'{key}' is missing") for key in ("backbone", "heads", "class_names", "input", "mean")),
        (put("schema_version", 2), "has schema version 2; this mbv2kit reads 1"),
        (put("schema_version", [1]), r"has schema version \[1\]; this mbv2kit reads 1"),
        (put("backbone", None), "backbone must be a set of keys, with a name, got null"),
        (put("backbone.name", 5), "backbone must be a set of keys, with a name"),
        (put("heads", {}), "heads must be a set of keys, at least one of them"),
        (put("heads", {"painting": {"name": "classifier"}}), "heads are for painting, but class_names for"),
        (put("heads", {"Painting": {"name": "classifier"}}), "heads must be a set of keys"),
        (put("tasks", {"classification": "painting"}), "tasks must be a set of keys"),
        (put("class_names", {}), "class_names must be a set of keys, at least one of them"),
        (put("class_names.classification", None), "class_names must be a set of keys"),
        (put("class_names.classification", [1, 2]), "class_names must be a set of keys"),
        (put("class_names.classification", []), "class_names must be a set of keys"),
        (put("class_names", {"detection": ["a"]}), "heads are for classification, but class_names for detection"),
        (put("mean", [float("nan"), 0, 0]), "mean must be a list of 3, each a number from -1,000 to 1,000"),
        (put("std", [0, 1, 1]), r"std must be a list of 3, each a number from 0\.001"),
        (put("std", [1, float("inf"), 1]), "std must be a list of 3"),
        (put("input", []), "input must be set by its keys"),
        (put("input.size", [10**5, 10**5]), "input.size must be a list of 2, each a whole number from 1 to 8,192"),
        (put("input.size", [64.5, 64]), "input.size must be a list of 2"),
        (put("input.fill", -1), "input.fill must be a whole number from 0 to 255, got -1"),
        (put("input.zoom", 1), "unexpected keyword argument 'zoom'"),
        (put("plugins", "os"), "plugins must be a list"),
        (put("origin", 3), "origin must be a set of keys, got 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_without_torch(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    assert_refused(folder, change, lambda: ModelFolder(folder).read_spec(), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("backbone.depth", 1e5), "backbone 'mobilenet_v2': depth must be .* at most 10, got 100000"),
        (put("backbone.width", 1e9), "backbone 'mobilenet_v2': width must be a number above 0 and at most 8"),
        (put("backbone.norm_eps", float("nan")), "backbone must be a set of keys, with a name, got .*'norm_eps': nan"),
        (put("backbone.norm_eps", -1), "backbone 'mobilenet_v2': norm_eps must be a number above 0 .*, got -1"),
        (put("backbone.padding", None), "backbone 'mobilenet_v2': padding must be one of symmetric, tf_same, got null"),
        (put("heads.classification.dropout", "much"), "head 'classifier': dropout must be a number"),
        (put("heads.classification.feature_info", []), "does not describe a model"),
    ],
)  # fmt: skip
def test_the_options_of_a_part_are_checked_before_it_takes_memory(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    assert_refused(folder, change, lambda: VisionModel.load(folder), message)


def test_a_model_json_of_a_version_without_plugins_is_read(folder: Path) -> None:
    values = json.loads((folder / "model.json").read_text())
    assert "plugins" not in values
    assert ModelFolder(folder).read_spec().plugins == ()
