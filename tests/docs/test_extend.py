"""The recipes of the page "Extend" register as a package of a user, their keys compose, and together they train."""

import copy
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from mbv2kit.evaluation import EVALUATORS
from mbv2kit.registry import plugins
from mbv2kit.training.parts import training_parts
from tests.docs.conftest import run_command
from tests.docs.markdown import ROOT, blocks, inline_commands

PAGE = ROOT / "docs" / "extend.md"
TINY = (
    "augment=random_shift optimizer=adam scheduler=square_root input.size=[32,32] dataset.count=8 loader.batch_size=4 "
    "loader.workers=0 trainer.max_epochs=1 trainer.progress_bar=false export=false"
)


@pytest.fixture
def own_package(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of the page in the current folder; what they register is gone after the test."""
    for registry in [*training_parts(), EVALUATORS]:
        registry.names()
        for table in ("_builders", "_defaults"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(plugins, "_packages", set(plugins._packages))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for block in blocks(PAGE):
        if block.title is not None:
            Path(block.title).parent.mkdir(exist_ok=True)
            Path(block.title).write_text(block.text)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_parts"]:
        del sys.modules[name]


@pytest.mark.usefixtures("own_package")
def test_the_parts_of_the_page_train_together() -> None:
    for line in inline_commands(PAGE):
        assert run_command(line, "plugins=[my_parts]", "--cfg", "job") == 0, line
    train, infer = (line for block in blocks(PAGE) if block.language == "bash" for line in block.commands())
    assert run_command(train, *TINY.split()) == 0
    assert '"my_parts"' in Path("outputs/stripes/model/model.json").read_text()
    assert run_command(infer) == 0


@pytest.mark.usefixtures("own_package")
def test_every_part_of_the_page_is_in_its_package() -> None:
    modules = {path.stem for path in Path("my_parts").glob("*.py")} - {"__init__"}
    imported = Path("my_parts/__init__.py").read_text().partition(" import ")[2].split(", ")
    assert {name.strip() for name in imported} == modules


@pytest.mark.usefixtures("own_package")
def test_the_entry_point_of_the_page_loads_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]
    (name, value), *_ = groups[plugins.GROUP].items()
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert EntryPoint(name, value, plugins.GROUP).load().my_net.MyNet.__name__ == "MyNet"
