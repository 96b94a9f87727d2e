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
    options, heads = plan.options, plan.heads
    preprocess = Preprocess(**options["input"])
    train = open_joined(plan.datasets, "train_split")
    for task, source in train.sources.items():
        _check_classes(task, source.class_names)
    val = open_joined(plan.datasets, "val_split").aligned(train.class_names)
    # A resumed run has them in its config, and does not search again.
    heads = {
        task: options_from_data(head, partial(box_shapes, train.sources[task], preprocess))
        for task, head in heads.items()
        if task in train.sources
    }
    loader = dict(options["loader"])
    ratio, _ = loader.pop("ratio") or {}, loader.pop("mixed")
    data = DataModule(
        train,
        val,
        augment=create_augment(options["augment"], preprocess),
        preprocess=preprocess,
        seed=options["seed"],
        ratio=[max((ratio[task] for task in tasks if task in ratio), default=1.0) for tasks in train.together],
        **loader,
    )
    for task, dataset in plan.datasets.items():
        check_classes(train.sources[task], task, dataset["train_split"], trains=True)
        check_classes(val.sources[task], task, dataset["val_split"], trains=False)
    config = plan.config.copy()
    for task, head in heads.items():
        OmegaConf.update(config, place_of(config, task), head, merge=False)
    return replace(plan, config=config), data


def _check_classes(task: Task, names: Sequence[str]) -> None:
    if task != "detection" and len(names) < 2:
        raise UserError(
            f"The data set has {len(names)} class for {task} ({', '.join(names)}), and telling classes apart needs two "
            f"at least; add {'a folder of images that show something else' if task == 'classification' else 'one'}."
        )
