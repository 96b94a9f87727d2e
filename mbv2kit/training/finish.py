"""What follows the last epoch: the model folder, its ONNX file and its evaluation."""

import logging
from dataclasses import replace

import torch

from mbv2kit.data.datamodule import DataModule
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.evaluation import plots
from mbv2kit.evaluation.dataset import listed
from mbv2kit.evaluation.run import evaluate_model
from mbv2kit.exporting.trained import export_trained
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.checkpoints import read_checkpoint
from mbv2kit.training.plan import Plan
from mbv2kit.training.task import VisionTask

_log = logging.getLogger(__name__)

_IMAGES_TO_CHECK = 8


def finish(plan: Plan, task: VisionTask, data: DataModule, device: torch.device) -> None:
    """Saves the best epoch's weights, exports the saved model, and evaluates it as ``mbv2kit eval`` does.

    Args:
        plan: What was trained.
        task: In its state after the last step.
        data: Its validation split is what the model is evaluated on.
        device: What trained it, and evaluates it.
    """
    options, run = plan.options, plan.run
    epoch = _save_best(plan, task)
    model = VisionModel.load(run.model).to(memory_format=torch.channels_last)
    if (curves := run.epochs).is_file():
        plots.learning_curves(curves, run.plots / "learning_curves.png")
    if options["export"]:
        images = [data.val[index].image for index in evenly_spaced(len(data.val), _IMAGES_TO_CHECK)]
        export_trained(model, run.model, [model.preprocess(image)[0] for image in images])
    # Last, because a run that has metrics.json counts as finished.
    evaluate_model(
        as_trained(model.to(device)),
        data.val,
        dataset=listed(dataset["name"] for dataset in plan.datasets.values()),
        split=listed(dataset["val_split"] for dataset in plan.datasets.values()),
        claim=lambda: run,
        evaluator=options.get("evaluator"),
        references=options["task"].get("references"),
        batch_size=options["loader"]["batch_size"],
        workers=data.workers,
    )
    _log.info("the model of epoch %d is in %s", epoch, run.model)


def _save_best(plan: Plan, task: VisionTask) -> int:
    """Writes the model folder and returns the epoch, counted from 1, that its weights are of."""
    # There is no best epoch where none was validated.
    file = plan.best if plan.best.is_file() else plan.last
    checkpoint = read_checkpoint(file)
    epoch: int = checkpoint["epoch"] + 1
    prefix = "model." if task.average is None else "average.model."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    spec = task.model.spec
    model = VisionModel(replace(spec, origin={**spec.origin, "epoch": epoch}))
    model.load_state_dict(weights)
    plan.qat.finish(model)
    model.save(plan.run.model)
    return epoch
