import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    """docs/scripts/structure.py, which is no package."""
    spec = importlib.util.spec_from_file_location("structure", root / "docs" / "scripts" / "structure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_keeps_its_shape(script: ModuleType, root: Path) -> None:
    counts = script.measure(root)
    assert counts["loose modules"] <= 6
    assert counts["pairs of parts that import each other"] == 0
    assert counts["places with `isinstance(head, Head)`"] == 0
    assert counts["modules that name the file `model.json`"] == 1


def test_a_class_counts_as_a_model_by_its_whole_name(script: ModuleType) -> None:
    texts = ["class VisionModel: ...\nclass VisionModelling: ...", "class Session: ...", "VisionModel = 3"]
    assert script.model_classes(texts) == {"VisionModel", "Session"}
