"""What the tests of shards share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbv2kit.data.sources import Source, create_source
from mbv2kit.data.sources.shards import retries
from tests.data.shards.scenes import make


@pytest.fixture(scope="package")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards, which no test changes."""
    folder = tmp_path_factory.mktemp("shards")
    make(folder)
    return folder


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replaces the waits between attempts by a list of them."""
    waited: list[float] = []
    init = retries.Retries.__init__
    monkeypatch.setattr(retries.Retries, "__init__", lambda self, count: init(self, count, waited.append))
    return waited


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Source]:
    """Opens shards with a cache of this test."""

    def open_shards(root: Path | str, task: Any = "classification", split: str = "train", **options: Any) -> Source:
        cache = {"cache_dir": str(tmp_path / "cache")}
        return create_source("shards", task=task, split=split, root=root, **(cache | options))

    return open_shards
