"""The data of a training run, and the options of the head that depend on them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from mbv2kit.data.augment import Augment, create_augment
from mbv2kit.data.census import check_classes
from mbv2kit.data.datamodule import DataModule
from mbv2kit.data.image_cache import ImageCache
from mbv2kit.data.joined import Joined, open_joined
from mbv2kit.data.workers import choose_workers
from mbv2kit.errors import UserError
from mbv2kit.heads.registry import options_from_data
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.device import choose_device
from mbv2kit.process import usable_cores
from mbv2kit.structures import Task
from mbv2kit.training.anchors import box_shapes
from mbv2kit.training.checks import place_of
from mbv2kit.training.plan import Plan

_log = logging.getLogger(__name__)


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
    augment = create_augment(options["augment"], preprocess)
    loader = dict(options["loader"])
    if loader["workers"] == "auto":
        loader["workers"] = _choose_workers(options["trainer"])
    ratio, _ = loader.pop("ratio") or {}, loader.pop("mixed")
    data = DataModule(
        train,
        val,
        augment=augment,
        preprocess=preprocess,
        seed=options["seed"],
        passes=options["trainer"]["accumulate"],
        caches=_open_caches(plan, train, augment),
        ratio=[max((ratio[name] for name in names if name in ratio), default=1.0) for names in train.together],
        **loader,
    )
    for name, dataset in plan.datasets.items():
        check_classes(train.sources[name], tasks[name], dataset["train_split"], trains=True)
        check_classes(val.sources[name], tasks[name], dataset["val_split"], trains=False)
    _tell_twins(plan)
    config = plan.config.copy()
    for name, head in heads.items():
        OmegaConf.update(config, place_of(config, name), head, merge=False)
    return replace(plan, config=config), data


def _tell_twins(plan: Plan) -> None:
    """Warns of two heads that learn the same."""
    for one, other in combinations(plan.datasets, 2):
        if plan.tasks[one] == plan.tasks[other] and plan.datasets[one] == plan.datasets[other]:
            _log.warning(
                "the heads %s and %s learn the same, the %s of one data set (%s); name a data set of its own: "
                "datasets.%s=NAME",
                one,
                other,
                plan.tasks[one],
                plan.datasets[one]["name"],
                other,
            )


def _choose_workers(trainer: Mapping[str, Any]) -> int:
    device = trainer["accelerator"]
    if device == "auto":
        device = choose_device("auto")
    cores = usable_cores()
    workers = choose_workers(device, trainer["devices"], cores)
    _log.info("loader.workers=auto: %d for %d cores and accelerator %s", workers, cores, device)
    return workers


def _open_caches(plan: Plan, train: Joined, augment: Augment) -> list[ImageCache | None]:
    """Opens the cache of each data set that is to have one."""
    caches: list[ImageCache | None] = []
    for heads, count, end in zip(train.together, train.counts, np.cumsum(train.counts).tolist(), strict=True):
        where = plan.datasets[heads[0]]["cache"]
        if where is None:
            caches.append(None)
            continue
        files = [train.image_file(index) for index in range(end - count, end)]
        known = [file for file in files if file is not None]
        if len(known) < len(files):
            raise UserError(
                f"dataset.cache={where}: the data set '{plan.datasets[heads[0]]['name']}' does not say which files its "
                "images are; leave it out."
            )
        if augment.reads_pixels:
            raise UserError(
                f"dataset.cache={where}: augment.preset={plan.options['augment']['preset']} uses whole images, as "
                "their files hold them; leave it out."
            )
        caches.append(ImageCache(known, augment.most_reduced, where))
    return caches


def _check_classes(task: Task, names: Sequence[str]) -> None:
    if task != "detection" and len(names) < 2:
        raise UserError(
            f"The data set has {len(names)} class for {task} ({', '.join(names)}), and telling classes apart needs two "
            f"at least; add {'a folder of images that show something else' if task == 'classification' else 'one'}."
        )
