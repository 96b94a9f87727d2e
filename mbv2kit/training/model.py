"""The model of a training run: its spec, its weights, and the task that trains it."""

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import lightning
import torch

import mbv2kit
from mbv2kit.data.datamodule import DataModule
from mbv2kit.errors import UserError, first_few
from mbv2kit.evaluation.dataset import listed
from mbv2kit.files.urls import resolved
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.checks import heads_of, tasks_of
from mbv2kit.training.finetune import FineTuning
from mbv2kit.training.outlook import tell_short_run
from mbv2kit.training.plan import Plan
from mbv2kit.training.schedules import create_schedule
from mbv2kit.training.start import load_weights, unfold_norms
from mbv2kit.training.task import VisionTask
from mbv2kit.training.weighting import create_weights

_log = logging.getLogger(__name__)

# Enough for the means, variances and ranges of activations, in a matter of seconds.
_IMAGES_TO_MEASURE = 64


def create_task(
    plan: Plan, data: DataModule, start: VisionModel | None, last: Mapping[str, Any] | None = None
) -> VisionTask:
    """Builds the model that a plan describes and what trains it.

    Args:
        plan: What to build.
        data: Gives the classes, the steps in an epoch, and images to measure activations on.
        start: The model whose weights to start from; None for fresh ones or those of a checkpoint.
        last: The checkpoint that the run goes on from; None for a new run.

    Raises:
        UserError: An option of backbone, head, optimizer or schedule is wrong, or the weights do not fit.
    """
    options = plan.options
    lightning.seed_everything(options["seed"], workers=True, verbose=False)
    # Heads that are not trained keep the classes that they know.
    known = {} if last is None else last.get("class_names", {})
    known = known if start is None else start.class_names
    class_names = {head: data.train.class_names.get(head) or tuple(known[head]) for head in plan.heads}
    model = VisionModel(model_spec(options, class_names, _origin(plan, start)))
    limit = options["trainer"]["limit_train_batches"]
    steps = int(min(data.steps_per_epoch, limit or math.inf))
    plan.qat.prepare(model, data.train, start, steps)
    loaded: Collection[str] = ()
    trained = options["finetune"].get("train_only")
    if start is not None:
        loaded = load_weights(model, start, options["weights"]).loaded
        if trained is not None:
            _check_kept(model, trained, loaded, options["weights"])
        elif unfolded := unfold_norms(model, data.first_batches(_IMAGES_TO_MEASURE)):
            _log.info("%d folded batch norms take their statistics from the training images", unfolded)
    if not plan.resumed:
        epochs = options["trainer"]["max_epochs"]
        batch_size = options["loader"]["batch_size"] * options["trainer"]["accumulate"]
        for name in data.train.sources:
            tell_short_run(model, name, loaded, steps * epochs, batch_size)
    if options["trainer"]["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
    task = VisionTask(
        model,
        optimizer=options["optimizer"],
        schedule=create_schedule(options["scheduler"], steps, options["trainer"]["max_epochs"]),
        finetuning=FineTuning(**options["finetune"]),
        ema_decay=options["ema"]["decay"],
        seed=options["seed"],
        qat=plan.qat,
        evaluator=options.get("evaluator"),
        weights=create_weights(options["loss_weights"], list(model.class_names)),
        gradients=options["gradients"],
        references=options["task"].get("references"),
        accumulate=options["trainer"]["accumulate"],
        apart=None if options["loader"]["mixed"] or len(data.shares) == 1 else data.shares,
    )
    # A checkpoint brings its ranges along.
    measured = data.first_batches(_IMAGES_TO_MEASURE) if start is not None else ()
    plan.qat.attach(task.model, task.deployed, (batch.images for batch in measured))
    _log_summary(plan, model, data)
    return task


def _check_kept(model: VisionModel, trained: Collection[str], loaded: Collection[str], weights: str) -> None:
    """Checks that all that is not trained comes from the weights.

    Raises:
        UserError: The weights lack a part of it.
    """
    own = tuple(f"heads.{head}." for head in trained)
    fresh = [name for name in model.state_dict() if not name.startswith(own) and name not in loaded]
    if fresh:
        raise UserError(
            f"finetune.train_only keeps the rest of weights={weights}, but they lack {first_few(fresh)}, which a new "
            "head reads; choose another map or head, or train all of it."
        )


def model_spec(
    config: Mapping[str, Any], class_names: Mapping[str, tuple[str, ...]], origin: Mapping[str, Any]
) -> ModelSpec:
    """Returns the spec of the model that a training config describes.

    Raises:
        UserError: The preprocessing or the normalization is out of range.
    """
    mean, std = config["normalisation"]["mean"], config["normalisation"]["std"]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"normalization needs three means and three stds above 0, got {mean} and {std}.")
    return ModelSpec(
        backbone=config["backbone"],
        heads=heads_of(config),
        tasks=tasks_of(config),
        class_names=class_names,
        input=Preprocess(**config["input"]),
        mean=tuple(mean),
        std=tuple(std),
        origin=origin,
    )


def _origin(plan: Plan, start: VisionModel | None) -> dict[str, Any]:
    """Returns what ``model.json`` says about where the model comes from."""
    origin = {
        "made_by": f"mbv2kit {mbv2kit.__version__}, torch {torch.__version__}",
        "run": plan.run.path.name,
        "dataset": listed(dataset["name"] for dataset in plan.datasets.values()),
        "weights": "moving average" if plan.config.ema.decay is not None else "as trained",
        **plan.qat.origin,
    }
    return origin if start is None else origin | {"started_from": start.spec.origin}


def _log_summary(plan: Plan, model: VisionModel, data: DataModule) -> None:
    lines = []
    for head, dataset in plan.datasets.items():
        source, root = data.train.sources[head], dataset.get("root")
        place = resolved(str(root)) if root else "made on the fly"
        count = f"{len(source)} images, {len(source.class_names)} classes"
        lines.append(f"{head} on {dataset['name']} ({place}): {count}")
    _log.info(
        "%s, %s with %.2f M parameters; the run goes to %s",
        "; ".join(lines),
        " + ".join([plan.config.backbone.name, *(head["name"] for head in plan.heads.values())]),
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        plan.run.path.resolve(),
    )
