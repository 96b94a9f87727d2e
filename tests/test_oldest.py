"""The constraints of `make test-oldest`."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.oldest import constraints


def test_every_requirement_is_pinned_to_its_lower_bound(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    required = {text for group in groups for text in group if not text.startswith("mbv2kit[")}
    pins = {pin.name: next(iter(pin.specifier)) for pin in map(Requirement, constraints())}
    assert len(pins) == len(required)
    for requirement in map(Requirement, required):
        (lower,) = (each.version for each in requirement.specifier if each.operator == ">=")
        assert (pins[requirement.name].operator, pins[requirement.name].version) == ("==", lower)
        assert requirement.specifier.contains(lower)
