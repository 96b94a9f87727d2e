"""What the keys of ``conf/train.yaml`` may be."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.schema.rules import (
    DISTINCT,
    FILLED,
    Count,
    Epochs,
    HeadName,
    Location,
    Mean,
    Name,
    Rule,
    Seed,
    Std,
    Workers,
    above,
    below,
    between,
)
from mbv2kit.structures import Task


class Part(TypedDict):
    """Keys of a group whose choices are registered parts."""


# A part for each head.
Parts = Mapping[HeadName, Mapping[str, Any]]


class _TaskKeys(TypedDict):
    name: Task | Literal["multitask"]
    monitor: Name


class TaskKeys(_TaskKeys, total=False):
    """Keys of the group ``task``; only ``multitask`` has references."""

    references: Mapping[HeadName, Annotated[float, above(0, 1_000_000)]] | None


class Normalization(TypedDict):
    """Keys of ``normalisation``."""

    mean: Mean
    std: Std


class FineTuning(TypedDict):
    """Keys of ``finetune``."""

    frozen_layers: Name | None
    frozen_norms: bool
    backbone_lr: Annotated[float, between(0, 1000)]
    train_only: Annotated[Sequence[HeadName], FILLED, DISTINCT] | None


class Qat(TypedDict):
    """Keys of ``qat``."""

    enabled: bool
    norms_frozen_after: Epochs
    ranges_frozen_after: Epochs | None


class Loader(TypedDict):
    """Keys of ``loader`` that every command has which reads a data set."""

    batch_size: Annotated[int, between(1, 65_536)]
    workers: Workers


class TrainingLoader(TypedDict):
    """Keys of ``loader``."""

    batch_size: Annotated[int, between(1, 65_536)]
    workers: Workers | Literal["auto"]
    ratio: Mapping[HeadName, Annotated[float, above(0, 1_000_000)]] | None
    mixed: bool


class Ema(TypedDict):
    """Keys of ``ema``."""

    decay: Annotated[float, below(0, 1)] | None


class Trainer(TypedDict):
    """Keys of the group ``trainer``."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Annotated[int, Rule("that is 1: training on several devices is not supported", lambda count: count == 1)]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    channels_last: bool
    max_epochs: Count
    val_every_n_epochs: Count
    early_stopping_patience: Count | None
    gradient_clip_norm: Annotated[float, above(0, 1_000_000)] | None
    accumulate: Annotated[int, between(1, 65_536)]
    limit_train_batches: Count | None
    limit_val_batches: Annotated[int, between(0, 1_000_000)] | None
    progress_bar: bool


class Keys(TypedDict):
    """All keys; the options of a registered part are checked by its registry."""

    plugins: Sequence[Name]
    task: TaskKeys
    dataset: Part
    backbone: Part
    head: Part | None
    heads: Parts | None
    datasets: Parts | None
    gradients: Literal["pcgrad", "upgrad", "mgda"] | None
    loss_weights: Mapping[HeadName, Annotated[float, above(0, 1_000_000)]] | Literal["uncertainty"] | None
    augment: Part
    optimizer: Part
    scheduler: Part
    trainer: Trainer
    input: Preprocess
    normalisation: Normalization
    weights: Location | None
    class_names: Location | None
    finetune: FineTuning
    qat: Qat
    loader: TrainingLoader
    ema: Ema
    evaluator: Part | None
    export: bool
    seed: Seed
    run_dir: Location
    resume: Location | None
