"""``experiment=FILE.yaml``: a user's own recipe, in any folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from mbv2kit.cli.config import compose_config, conf_folder, register_parts
from mbv2kit.errors import UserError
from mbv2kit.training.parts import training_parts

Run = Callable[..., int]

RECIPE = """
defaults:
  - /experiment/recipes/finetune_detection
  - override /optimizer: sgd
  - _self_
trainer:
  max_epochs: 7
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*overrides: str, multirun: bool = False) -> DictConfig:
    register_parts(conf_folder(), training_parts())
    return compose_config(conf_folder(), "train", ["dataset.root=DIR", *overrides], multirun=multirun)


@pytest.mark.parametrize("name", ["my.yaml", "./my.yaml", "folder/my recipe (2).yaml", "{folder}/my.yaml"])
@pytest.mark.parametrize("header", ["", "# @package _global_"])
def test_a_file_of_the_user_is_an_experiment(tmp_path: Path, name: str, header: str) -> None:
    path = Path(name.format(folder=tmp_path))
    path.parent.mkdir(exist_ok=True)
    path.write_text(header + RECIPE)
    config = train(f'experiment="{path}"' if " " in name else f"experiment={path}", "trainer.val_every_n_epochs=2")
    assert (config.task.name, config.optimizer.nesterov) == ("detection", True)
    assert (config.trainer.max_epochs, config.trainer.val_every_n_epochs) == (7, 2)
    assert train("experiment=recipes/finetune_detection").trainer.max_epochs != 7


def test_a_file_with_the_name_of_an_experiment_of_the_project_is_the_users() -> None:
    Path("shapes").mkdir()
    Path("shapes", "detection.yaml").write_text("seed: 77\n")
    assert train("experiment=shapes/detection.yaml").seed == 77
    assert train("experiment=shapes/detection").seed != 77


def test_a_file_may_change_between_two_runs_of_a_process() -> None:
    for seed in (1, 2):
        Path("my.yaml").write_text(f"seed: {seed}\n")
        assert train("experiment=my.yaml").seed == seed


def test_files_and_experiments_of_the_project_in_one_sweep(run: Run) -> None:
    Path("my.yaml").write_text("seed: 5\n")
    seeds: list[int] = []
    arguments = ["experiment=./my.yaml,shapes/detection", "seed=6", "-m"]
    assert run("train", lambda config: seeds.append(config.seed), *arguments) == 0
    assert run("train", lambda config: seeds.append(config.seed), *arguments[::2]) == 0
    assert seeds[:3] == [6, 6, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"experiment=my\.yaml: there is no such file\."),
        ("a: [1", r"experiment=my\.yaml cannot be read: while parsing a flow sequence .* line 1"),
        ("- 1", r"experiment=my\.yaml holds no keys;"),
        ("trainer: {max_epohcs: 3}", r"my\.yaml: There is no key 'trainer\.max_epohcs'\. .*'trainer\.max_epochs'"),
        ("optimizer: {lr: high}", r"my\.yaml: optimizer\.lr must be a number"),
        ("defaults:\n  - override /dataset: vco\n", r"Could not find 'dataset/vco'"),
    ],
)
def test_a_mistake_in_a_file_is_a_sentence_that_names_it(text: str | None, message: str) -> None:
    if text is not None:
        Path("my.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        train("experiment=my.yaml")
    assert "\n" not in str(error.value)


def test_a_configuration_is_composed_within_another_job_of_hydra(run: Run) -> None:
    found: list[int] = []

    def job(config: DictConfig) -> None:
        outer = GlobalHydra.instance().hydra
        found.append(train("seed=9").seed)
        assert GlobalHydra.instance().hydra is outer is not None

    assert run("train", job, "hydra.verbose=false") == 0
    assert found == [9]
