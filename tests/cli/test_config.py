"""The project's own configuration files, composed as the tools compose them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from mbv2kit.backbones.registry import BACKBONES
from mbv2kit.cli.command import run_command
from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.data.augment import PRESETS
from mbv2kit.data.sources.base import SOURCES, Source
from mbv2kit.errors import UserError
from mbv2kit.training.optimizers import OPTIMIZERS
from mbv2kit.training.parts import training_parts
from mbv2kit.training.schedules import SCHEDULES

Compose = Callable[..., DictConfig]


@pytest.fixture
def train(root: Path) -> Compose:
    register_parts(root / "conf", training_parts())
    return lambda *overrides, **options: compose_config(root / "conf", "train", overrides, **options)


@pytest.fixture
def evaluation(root: Path) -> Compose:
    register_parts(root / "conf", training_parts())
    return lambda *overrides: compose_config(root / "conf", "eval", overrides)


@pytest.fixture
def with_experiment(root: Path, tmp_path: Path) -> Compose:
    """Composes a copy of ``conf`` that has one experiment more."""
    for source in (root / "conf").rglob("*.yaml"):
        target = tmp_path / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
    register_parts(tmp_path / "conf", training_parts())

    def compose(text: str, *overrides: str) -> DictConfig:
        experiment = tmp_path / "conf" / "experiment" / "cells" / "trial.yaml"
        experiment.parent.mkdir(parents=True, exist_ok=True)
        experiment.write_text(f"# @package _global_\n{text}")
        return compose_config(tmp_path / "conf", "train", ["experiment=cells/trial", *overrides])

    return compose


# What each task sets.


@pytest.mark.parametrize(
    ("task", "head", "size", "resize", "monitor", "stride"),
    [
        ("classification", "classifier", [224, 224], "crop", "top1", 32),
        ("detection", "ssdlite", [320, 320], "stretch", "AP", 32),
        ("segmentation", "deeplab_v3", [513, 513], "pad", "mIoU", 16),
    ],
)
def test_a_task_brings_its_head_augmentation_and_input(
    train: Compose, task: str, head: str, size: list[int], resize: str, monitor: str, stride: int
) -> None:
    config = train(f"task={task}")
    assert (config.task.name, config.task.monitor) == (task, monitor)
    assert config.head.name == head
    assert config.augment.preset == task
    assert (list(config.input["size"]), config.input.resize) == (size, resize)
    assert config.backbone.output_stride == stride


def test_the_command_line_wins_over_the_task(train: Compose) -> None:
    config = train("task=segmentation", "backbone.output_stride=8", "input.size=[257,257]", "augment=none")
    assert config.backbone.output_stride == 8
    assert list(config.input["size"]) == [257, 257]
    assert config.augment.preset == "none"


def test_run_dir_names_task_dataset_and_time(train: Compose) -> None:
    assert train("task=detection", "dataset=voc").run_dir.startswith("outputs/detection/voc/20")


# Experiments.

EXPERIMENT = """
defaults:
  - override /task: detection
  - override /dataset: voc
  - override /optimizer: sgd
input:
  size: [416, 416]
loader:
  batch_size: 5
backbone:
  width: 0.5
trainer:
  max_epochs: 7
"""


def test_an_experiment_wins_over_the_task_that_it_chooses(with_experiment: Compose) -> None:
    config = with_experiment(EXPERIMENT)
    assert (config.task.name, config.head.name, config.dataset.name) == ("detection", "ssdlite", "voc")
    assert config.optimizer.nesterov is True
    assert list(config.input["size"]) == [416, 416]
    assert config.input.resize == "stretch"
    assert (config.loader.batch_size, config.backbone.width, config.trainer.max_epochs) == (5, 0.5, 7)


def test_an_experiment_wins_over_the_head_of_its_task(with_experiment: Compose) -> None:
    config = with_experiment("defaults:\n  - override /task: detection\n  - override /head: ssd\n")
    assert (config.head.name, config.augment.preset) == ("ssd", "detection")


def test_the_command_line_wins_over_an_experiment(with_experiment: Compose) -> None:
    config = with_experiment(EXPERIMENT, "dataset=coco", "trainer.max_epochs=1", "input.size=[96,96]", "head=ssd")
    assert (config.dataset.name, config.head.name, config.trainer.max_epochs) == ("coco", "ssd", 1)
    assert list(config.input["size"]) == [96, 96]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {max_epohcs: 3}", r"conf/experiment/cells/trial.yaml: .*Did you mean 'trainer.max_epochs'"),
        ("optimizer: {lr: high}", r"conf/experiment/cells/trial.yaml: optimizer.lr must be a number"),
        ("defaults:\n  - override /dataset: vco\n", r"Could not find 'dataset/vco'.*voc"),
    ],
)
def test_a_slip_in_an_experiment_is_found(with_experiment: Compose, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_experiment(text)


BASE = "conf/experiment/recipes/finetune_detection.yaml"
CHILD = "defaults:\n  - /experiment/recipes/finetune_detection\n  - override /dataset: voc\n  - _self_\n"


def test_an_experiment_may_extend_another(with_experiment: Compose) -> None:
    config = with_experiment(f"{CHILD}loader: {{batch_size: 3}}", "trainer.max_epochs=2")
    assert (config.task.name, config.dataset.name, config.weights) == ("detection", "voc", "torchvision:mobilenet_v2")
    assert (config.loader.batch_size, config.trainer.max_epochs, config.trainer.val_every_n_epochs) == (3, 2, 4)
    # The keys are those of the data set that the extending experiment chooses.
    assert with_experiment(f"{CHILD}dataset: {{difficult: count}}").dataset.difficult == "count"
    with pytest.raises(UserError, match=r"There is no key 'dataset\.skip_empty'"):
        with_experiment(f"{CHILD}dataset: {{skip_empty: true}}")


def test_a_slip_in_an_experiment_that_another_extends_is_found(with_experiment: Compose, tmp_path: Path) -> None:
    with (tmp_path / BASE).open("a") as file:
        file.write("qat:\n  enabeld: true\n")
    with pytest.raises(UserError, match=r"There is no key 'qat\.enabeld'\. Did you mean 'qat\.enabled'\?"):
        with_experiment(CHILD)


def test_the_name_of_an_experiment_in_a_folder_is_suggested(with_experiment: Compose, tmp_path: Path) -> None:
    with_experiment("seed: 1")
    with pytest.raises(UserError, match="Did you mean 'cells/trial'"):
        compose_config(tmp_path / "conf", "train", ["experiment=cells/trail"])


def test_every_experiment_of_the_project_composes(train: Compose, root: Path) -> None:
    folder = root / "conf" / "experiment"
    for path in sorted(folder.rglob("*.yaml")):
        config = train(f"experiment={path.relative_to(folder).with_suffix('').as_posix()}")
        assert OmegaConf.missing_keys(config) == set()


# Parts of the registries.


def test_every_registered_part_is_a_choice_with_its_options_as_keys(root: Path) -> None:
    register_parts(root / "conf", training_parts())
    groups = {registry.group for registry in training_parts()}
    assert groups == {"augment", "backbone", "dataset", "evaluator", "head", "optimizer", "scheduler"}
    for registry in training_parts():
        for name in registry.names():
            node = OmegaConf.to_container(ConfigStore.instance().load(f"{registry.group}/{name}.yaml").node)
            assert isinstance(node, dict)
            options = registry.options(name).items()
            expected = {key: list(value) if isinstance(value, tuple) else value for key, value in options}
            shared = {"root", "train_split", "val_split", "cache", "decay_norm_bias_depthwise"} & set(node)
            assert {key: value for key, value in node.items() if key not in shared} == {
                registry.name_key: name,
                **expected,
            }


def test_keys_that_all_parts_of_a_group_share(train: Compose) -> None:
    config = train("dataset=voc", "optimizer=sgd", "task=detection")
    assert (config.dataset.root, config.dataset.train_split, config.dataset.val_split) == (None, "train", "val")
    assert config.optimizer.decay_norm_bias_depthwise is False
    config = train("dataset=coco", "task=detection")
    assert (config.dataset.root, config.dataset.train_split, config.dataset.val_split) == (
        None,
        "train2017",
        "val2017",
    )


def test_parts_that_are_registered_anew_need_no_file(train: Compose, root: Path, add_part: Callable[..., None]) -> None:
    def tiny(depth: int = 3, width: float = 1.0, output_stride: int = 32, sides: tuple[int, ...] = (1, 2)) -> Any: ...

    class Stars(Source):
        provides = frozenset({"classification"})

        def __init__(self, *, task: str, split: str, root: Path, magnitude: float = 6.0) -> None: ...

    def tilt(preprocess: Any, *, degrees: float = 10.0) -> Any: ...
    def lion(params: Any, lr: float = 1e-4, weight_decay: float = 0.1) -> Any: ...
    def linear(steps_per_epoch: int, epochs: int, warmup_epochs: float = 0.5) -> Any: ...

    add_part(BACKBONES, "tiny", tiny)
    add_part(SOURCES, "stars", Stars, val_split="test")
    add_part(PRESETS, "tilt", tilt)
    add_part(OPTIMIZERS, "lion", lion)
    add_part(SCHEDULES, "linear", linear, warmup_epochs=2.0)
    register_parts(root / "conf", training_parts())
    config = train(
        *("backbone=tiny", "backbone.depth=5", "dataset=stars", "dataset.magnitude=2.5"),
        *("augment=tilt", "optimizer=lion", "optimizer.lr=1", "scheduler=linear"),
    )
    assert config.backbone == {"name": "tiny", "depth": 5, "width": 1.0, "output_stride": 32, "sides": [1, 2]}
    assert config.dataset == {
        "name": "stars", "root": None, "train_split": "train", "val_split": "test", "cache": None, "magnitude": 2.5
    }  # fmt: skip
    assert config.augment == {"preset": "tilt", "degrees": 10.0}
    assert config.optimizer == {
        "name": "lion", "decay_norm_bias_depthwise": False, "lr": 1, "weight_decay": 0.1
    }  # fmt: skip
    assert config.scheduler == {"name": "linear", "warmup_epochs": 2.0}


def test_the_trainers_differ_in_two_keys(train: Compose) -> None:
    cpu, gpu = (train(f"trainer={name}").trainer for name in ("cpu", "gpu"))
    assert (cpu.accelerator, cpu.precision) == ("cpu", "32-true")
    assert (gpu.accelerator, gpu.precision) == ("gpu", "bf16-mixed")
    assert {key for key in cpu if cpu[key] != gpu[key]} == {"accelerator", "precision"}
    assert set(cpu) == set(gpu)


# Evaluation.


def test_evaluation_can_leave_everything_to_the_run(evaluation: Compose) -> None:
    config = evaluation()
    assert all(config[key] is None for key in ("task", "checkpoint", "dataset", "split", "run_dir"))


def test_evaluation_takes_a_task_and_a_dataset(evaluation: Compose) -> None:
    config = evaluation("task=segmentation", "dataset=voc", "dataset.root=/tmp/city", "checkpoint=outputs/a b")
    assert (config.task, config.dataset.name, config.dataset.root) == ("segmentation", "voc", "/tmp/city")
    assert config.checkpoint == "outputs/a b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=Segmentation", "task must be text of small letters, digits and _, a letter first, other than name, or"),
        ("dataset.root=DIR", "dataset is null and has no key 'root'; give it a value first, as in dataset=NAME."),
        ("backbone=mobilenet_v2", "There is no key 'backbone'."),
    ],
)
def test_a_slip_in_evaluation(evaluation: Compose, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        evaluation(override)
    assert str(error.value).startswith(message)


# Slips; those in keys and values are in test_overrides.py.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset=cooc", "There is no dataset 'cooc'. Did you mean 'coco'?"),
        ("backbone=mobilenetv2", "There is no backbone 'mobilenetv2'. Did you mean 'mobilenet_v2'?"),
        ("task=detectoin", "There is no task 'detectoin'. Did you mean 'detection'?"),
        ("backbone=5", "There is no backbone '5'. Known: "),
        ("+dataset=coco", "'+dataset=coco': write dataset=CHOICE. Did you mean 'coco'?"),
        ("backbone.widht=0.5", "There is no key 'backbone.widht'. Did you mean 'backbone.width'?"),
        (
            "detection",
            "'detection' is not of the form key=value. Did you mean 'task=detection' or 'augment=detection'?",
        ),
        ("/some/image.jpg", "'/some/image.jpg' is not of the form key=value."),
        ("input.size=[1", "'input.size=[1' cannot be read; "),
        ("seed=1,2", "'seed=1,2' holds several values: add -m to run a job for each, or write seed=[1,2] for a list."),
        ("seed=range(3)", "'seed=range(3)' holds several values: add -m to run a job for each."),
        ("run_dir=outputs/${nothing}", "run_dir: Interpolation key 'nothing' not found."),
        (
            "dataset=voc",
            "dataset 'voc' does not serve classification, the default task; name one that it serves: task=detection or "
            "task=segmentation.",
        ),
        ("run_dir=???", "'run_dir' has no value; give one with run_dir=VALUE."),
        ("hydra.nothing=1", "Could not override 'hydra.nothing'."),
    ],
)
def test_a_slip_is_told_in_one_line(train: Compose, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        train(override)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


# Sweeps.


def test_every_value_of_a_sweep_is_checked(train: Compose) -> None:
    config = train("backbone.width=0.5,1.0", "dataset=shapes,coco", "task=detection", multirun=True)
    assert (config.backbone.width, config.dataset.name) == (0.5, "shapes")
    with pytest.raises(UserError, match="There is no dataset 'cooc'"):
        train("backbone.width=0.5,1.0", "dataset=shapes,cooc", multirun=True)
    with pytest.raises(UserError, match=r"There is no key 'dataset\.size'"):
        train("dataset=shapes,coco", "dataset.size=96", multirun=True)


@pytest.mark.usefixtures("clean_process")
def test_notes_of_a_command_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def job(config: DictConfig) -> None:
        logging.getLogger("mbv2kit.data").info("Left out 1 box.")

    with pytest.raises(SystemExit) as end:
        run_command("infer", "", job, [])
    assert end.value.code == 0
    assert capsys.readouterr().out == "Left out 1 box.\n"
