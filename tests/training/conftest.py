"""What the tests of training share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def _clean_process(clean_process: None) -> None:
    """Every test here may train."""


@pytest.fixture(scope="module")
def changed(tiny: Compose) -> Callable[[str], Any]:
    """Returns a configuration with one key changed; composing takes half a second, so it is done once."""
    base = tiny(Path("unused"))

    def change(override: str) -> Any:
        return OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist([override])), resolve=True)

    return change
