"""The recipes of the page "Extend": each part registers, its keys compose, and together they train."""

import copy
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from mbv2kit.evaluation import EVALUATORS
from mbv2kit.training.parts import training_parts
from tests.docs.conftest import run_command
from tests.docs.markdown import ROOT, blocks, inline_commands

PAGE = ROOT / "docs" / "extend.md"
TINY = (
    "backbone=my_net head=max_pooling dataset=stripes augment=random_shift optimizer=adam scheduler=square_root "
    "input.size=[32,32] dataset.count=8 loader.batch_size=4 loader.workers=0 trainer.max_epochs=1 "
    "trainer.progress_bar=false export=false run_dir=run"
)


@pytest.fixture
def own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the parts of the page for one test."""
    for registry in [*training_parts(), EVALUATORS]:
        registry.names()
        for table in ("_builders", "_defaults"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    for block in blocks(PAGE):
        if block.title is not None and block.language == "python":
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": block.title})


@pytest.mark.usefixtures("own_parts", "clean_process")
def test_the_parts_of_the_page_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in inline_commands(PAGE):
        assert run_command(line, "--cfg", "job") == 0, line
    assert run_command("mbv2kit train", *TINY.split()) == 0
    assert '"my_net"' in Path("run/model/model.json").read_text()
