"""Parts that are registered for one test; the fixtures are in conftest.py."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from mbv2kit.registry import Registry


def keep_registry(monkeypatch: pytest.MonkeyPatch, registry: Registry[Any]) -> None:
    """Makes a registry, and the choices on the command line, forget after the test what is registered in it."""
    registry.names()
    # Hydra stores choices of its own on first use; they must outlive the test.
    Plugins.instance()
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    monkeypatch.setattr(registry, "_defaults", dict(registry._defaults))
    monkeypatch.setattr(ConfigStore.instance(), "repo", deepcopy(ConfigStore.instance().repo))


@contextmanager
def one_more_file(
    monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], folder: Path, name: str, text: str
) -> Iterator[None]:
    """Adds a module to the package of a registry, which then looks as in a new process."""
    package = import_module(registry._package)
    keep_registry(monkeypatch, registry)
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setattr(registry, "_imported", False)
    yield
    sys.modules.pop(f"{registry._package}.{name}", None)
    vars(package).pop(name, None)
