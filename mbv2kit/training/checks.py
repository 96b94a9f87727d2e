"""Checks that the parts of a training config serve its task, before anything is read."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mbv2kit.data.augment import PRESETS
from mbv2kit.data.joined import FIELDS, join_heads
from mbv2kit.data.sources import SOURCES
from mbv2kit.errors import UserError
from mbv2kit.evaluation import EVALUATORS
from mbv2kit.heads import HEADS
from mbv2kit.heads.registry import check_names
from mbv2kit.structures import MULTITASK, TASKS, Task

# Keys that only a model of several heads has.
_SEVERAL = ("heads", "datasets", "loss_weights", "gradients")


def heads_of(config: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """Returns the options of each head of a training config, by the heads' names."""
    return {config["task"]["name"]: config["head"]} if config["heads"] is None else dict(config["heads"])


def tasks_of(config: Mapping[str, Any] | DictConfig) -> dict[str, Task]:
    """Returns the task of each head of a training config."""
    return {head: HEADS.get_class(options["name"]).task for head, options in heads_of(config).items()}


def place_of(config: DictConfig, head: str) -> str:
    """Returns the dotted key that holds a head in a training config."""
    return "head" if config.heads is None else f"heads.{head}"


def check_parts(config: DictConfig) -> None:
    """Checks that heads, augmentation and evaluator are for the task, and that no key is set that does nothing.

    Raises:
        UserError: One is for another task; ``class_names`` has no weights to name the classes of; or a key is set that
            only a model of several tasks has.
    """
    if config["class_names"] is not None and config["weights"] is None:
        raise UserError(
            f"class_names={config['class_names']} names the classes of weights=, and there are none; leave it out: a "
            "model that is trained has the classes of its data set."
        )
    task = config["task"]["name"]
    if task == MULTITASK:
        _check_several(config)
    else:
        _check_single(config)
    check_names(heads_of(config))
    _check_train_only(config)
    for served, head in heads_of(config).items():
        name = head["name"]
        if served in TASKS and (other := HEADS.get_class(name).task) != served:
            raise UserError(
                f"head '{name}' does {other}, but task is {served}; choose a head for {served}: "
                f"{', '.join(name for name in HEADS.names() if HEADS.get_class(name).task == served)}."
            )
    preset = config["augment"]["preset"]
    usable = (None, FIELDS[task][0]) if task != MULTITASK else (None,)
    if PRESETS.get_class(preset).needs not in usable:
        fitting = (name for name in PRESETS.names() if PRESETS.get_class(name).needs in usable)
        raise UserError(
            f"augment '{preset}' needs samples with '{PRESETS.get_class(preset).needs}', but task is {task}; choose "
            f"augment={' or augment='.join(fitting)}."
        )
    evaluator = config["evaluator"]
    if evaluator is not None and (other := EVALUATORS.get_class(evaluator["name"]).task) != task:
        raise UserError(f"evaluator '{evaluator['name']}' measures {other}, but the task is {task}.")


def check_loader(config: DictConfig, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that what the loader does with several data sets has several.

    Args:
        config: A training config.
        datasets: The data set of each head that is trained.

    Raises:
        UserError: There is one.
    """
    if len(join_heads(datasets, tasks_of(config))) > 1:
        return
    for key, unused in (("loader.mixed", True), ("loader.ratio", None)):
        if OmegaConf.select(config, key) != unused:
            raise UserError(
                f"{key} is for several data sets, and there is one; name others with datasets.HEAD=NAME, or leave it "
                "out."
            )


def check_cache(dataset: Mapping[str, Any], key: str) -> None:
    """Checks that a data set whose images are to be kept has files.

    Args:
        dataset: The options of a data set.
        key: Its key, for messages.

    Raises:
        UserError: It makes its own images.
    """
    if dataset["cache"] is not None and not SOURCES.get_class(dataset["name"]).layout:
        raise UserError(
            f"{key}.cache={dataset['cache']} keeps what files decode to, and dataset '{dataset['name']}' makes its own "
            "images; leave it out."
        )


def _check_train_only(config: DictConfig) -> None:
    trained = config["finetune"].get("train_only")
    if trained is None:
        return
    for head in trained:
        if head not in heads_of(config):
            raise UserError(
                f"finetune.train_only: the model has no head for {head}; its heads are {', '.join(heads_of(config))}."
            )
    if config["gradients"] is not None:
        raise UserError("gradients combines what heads want of the backbone, which finetune.train_only keeps as it is.")
    for key, unused in (("frozen_layers", None), ("frozen_norms", False), ("backbone_lr", 1.0)):
        if (value := config["finetune"][key]) != unused:
            raise UserError(
                f"finetune.{key}={value} does nothing next to finetune.train_only, which keeps the backbone as it is; "
                "leave one of them out."
            )
    if config["weights"] is None:
        raise UserError("finetune.train_only keeps the rest of a trained model, and weights is null; set weights=RUN.")
    if config["qat"]["enabled"]:
        raise UserError(
            "finetune.train_only keeps weights as they are, and qat.enabled rounds all of them; leave one of them out."
        )


def _check_single(config: DictConfig) -> None:
    for key in _SEVERAL:
        if OmegaConf.select(config, key) is not None:
            raise UserError(
                f"{key} is for a model of several heads, and task is {config['task']['name']}; set task={MULTITASK}, "
                "or leave it out."
            )
    if config["head"] is None:
        raise UserError(f"head is null; name one for {config['task']['name']}: head=NAME.")


def _check_several(config: DictConfig) -> None:
    if config["head"] is not None:
        raise UserError(
            f"head={config['head']['name']} is for a model of one task; with task={MULTITASK} write heads=[...]."
        )
    heads = config["heads"] or {}
    if len(heads) < 2:
        raise UserError(
            f"task={MULTITASK} trains several heads, and heads has {len(heads)}; name more, as in "
            "heads=[classifier,ssdlite], or choose the task of the one."
        )
    if config["gradients"] is not None and config["trainer"]["accumulate"] > 1:
        raise UserError(
            f"gradients={config['gradients']} combines the gradients of a whole batch, and trainer.accumulate="
            f"{config['trainer']['accumulate']} divides it; leave one of them out."
        )
    if config["gradients"] is not None and config["trainer"]["precision"] == "16-mixed":
        raise UserError(
            f"gradients={config['gradients']} cannot scale gradients, as trainer.precision=16-mixed does; set "
            "trainer.precision=bf16-mixed or 32-true."
        )
    for key in ("datasets", "task.references", "loader.ratio", "loss_weights"):
        chosen = OmegaConf.select(config, key)
        for head in chosen if isinstance(chosen, Mapping | DictConfig) else ():
            if head not in heads:
                raise UserError(f"{key}.{head}: the model has no head for {head}; its heads are {', '.join(heads)}.")
