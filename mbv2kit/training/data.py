"""The data of a training run, and the options of the head that depend on them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from omegaconf import OmegaConf

from mbv2kit.data.augment import create_augment
from mbv2kit.data.census import check_classes
from mbv2kit.data.datamodule import DataModule
from mbv2kit.data.joined import open_joined
from mbv2kit.errors import UserError
from mbv2kit.heads.registry import options_from_data
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Task
from mbv2kit.training.anchors import box_shapes
from mbv2kit.training.checks import place_of
from mbv2kit.training.plan import Plan


def open_data(plan: Plan) -> tuple[Plan, DataModule]:
    """Opens the training and validation splits.

    Returns:
        The plan, with the options of the head that the training data decide, such as YOLOv2's anchors; and the data.

    Raises:
        UserError: A split cannot be read, is too small or teaches nothing; or an option of the loader or the
            augmentation is wrong.
    """
    options, heads, tasks = plan.options, plan.heads, plan.tasks
    preprocess = Preprocess(**options["input"])
    train = open_joined(plan.datasets, tasks, "train_split")
    for name, source in train.sources.items():
        _check_classes(tasks[name], source.class_names)
    val = open_joined(plan.datasets, tasks, "val_split").aligned(train.class_names)
    # A resumed run has them in its config, and does not search again.
    heads = {
        name: options_from_data(head, partial(box_shapes, train.sources[name], preprocess))
        for name, head in heads.items()
        if name in train.sources
    }
    loader = dict(options["loader"])
    ratio, _ = loader.pop("ratio") or {}, loader.pop("mixed")
    data = DataModule(
        train,
        val,
        augment=create_augment(options["augment"], preprocess),
        preprocess=preprocess,
        seed=options["seed"],
        passes=options["trainer"]["accumulate"],
        ratio=[max((ratio[name] for name in names if name in ratio), default=1.0) for names in train.together],
        **loader,
    )
    for name, dataset in plan.datasets.items():
        check_classes(train.sources[name], tasks[name], dataset["train_split"], trains=True)
        check_classes(val.sources[name], tasks[name], dataset["val_split"], trains=False)
    config = plan.config.copy()
    for name, head in heads.items():
        OmegaConf.update(config, place_of(config, name), head, merge=False)
    return replace(plan, config=config), data


def _check_classes(task: Task, names: Sequence[str]) -> None:
    if task != "detection" and len(names) < 2:
        raise UserError(
            f"The data set has {len(names)} class for {task} ({', '.join(names)}), and telling classes apart needs two "
            f"at least; add {'a folder of images that show something else' if task == 'classification' else 'one'}."
        )
