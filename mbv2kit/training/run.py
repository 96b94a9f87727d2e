"""One training run, from the configuration to the run folder."""

import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import mbv2kit
from mbv2kit.cli.logs import log_to, set_up_logging
from mbv2kit.data.align import align_classes
from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import DataModule
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.data.sources import Source, open_source
from mbv2kit.errors import UserError, one_line
from mbv2kit.evaluation import plots
from mbv2kit.evaluation.run import evaluate_model
from mbv2kit.exporting.trained import export_trained
from mbv2kit.heads.registry import options_from_data
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.in_torch import TensorModel
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.process import keep_freed_memory
from mbv2kit.runs import RunFolder
from mbv2kit.training.anchors import box_shapes
from mbv2kit.training.callbacks import EpochLog, EpochOrder, MovableCheckpoint, StopOnSignal, StoppedBySignal
from mbv2kit.training.finetune import FineTuning
from mbv2kit.training.qat import QatOptions, QuantizationAwareness, adopt_whole, check_classes, check_qat
from mbv2kit.training.qat_simulation import round_weights
from mbv2kit.training.resume import resumed_config
from mbv2kit.training.schedule import create_schedule
from mbv2kit.training.setup import check_numbers, model_spec
from mbv2kit.training.start import adopt, load_weights, unfold_norms
from mbv2kit.training.task import VisionTask
from mbv2kit.weights.open import open_model

_log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
# Enough for means and variances; a matter of seconds.
_IMAGES_TO_MEASURE = 64
_IMAGES_TO_CHECK = 8


def train(config: DictConfig) -> None:
    """Trains the model that a config describes and leaves a run folder.

    With ``resume`` the run in that folder goes on where it stopped, under its own config; keys on the command line
    change it, such as a larger ``trainer.max_epochs``. A run that is finished stays as it is.

    Raises:
        UserError: Something in the config or the data cannot be used, which leaves no run folder; or training failed.
    """
    set_up_logging()
    keep_freed_memory()
    if config.resume is not None:
        run = RunFolder(Path(config.resume))
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        config = resumed_config(run, overrides)
        if run.finished and config.trainer.max_epochs <= OmegaConf.load(run.config).trainer.max_epochs:
            _log.info("the run in %s is finished; set a larger trainer.max_epochs to go on", run.path)
            return
    else:
        run = RunFolder(Path(config.run_dir))
        if run.config.exists():
            raise UserError(f"run_dir={run.path} holds a run; name another folder, or go on with resume={run.path}.")
    # Before the weights, which may have to be fetched first.
    check_numbers(config)
    check_qat(config)
    last = run.checkpoints / LAST
    start: VisionModel | None = None
    # A checkpoint has all that the weights gave, and more.
    if config.weights is not None and not last.is_file():
        start, _ = open_model(config.weights)
        # A model in int8 is the one that was trained, from its input to its head.
        takes = adopt_whole if config.qat.enabled else adopt
        config = takes(config, start.spec, config.weights)
    options: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    trainer = _trainer(options, run)
    source = open_source(options["dataset"], options["task"]["name"], options["dataset"]["train_split"])
    # A resumed run has them in its config.
    options["head"] = options_from_data(options["head"], partial(box_shapes, source, Preprocess(**options["input"])))
    task_module, datamodule = _build(options, source, run, start)

    log_to(run.log)
    OmegaConf.save(OmegaConf.create(options), run.config)
    # The figures are those of a finished run, which this is no longer.
    run.metrics.unlink(missing_ok=True)
    try:
        trainer.fit(task_module, datamodule=datamodule, ckpt_path=last if last.is_file() else None, weights_only=True)
    except StoppedBySignal as stop:
        _log.info("%s: stopped and saved; go on with: python tools/train.py resume=%s", stop, run.path)
        return
    if task_module.guard.skipped:
        _log.warning("%d steps were skipped because they were not finite", task_module.guard.skipped)
    _finish(options, run, task_module.model.spec, datamodule.val)


def _build(
    config: dict[str, Any], source: Source, run: RunFolder, start: VisionModel | None
) -> tuple[VisionTask, DataModule]:
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    task, dataset, trainer_config = config["task"]["name"], config["dataset"], config["trainer"]
    qat = QatOptions(**config["qat"])
    spec = model_spec(config, source.class_names, _origin(config, run, start))
    datamodule = DataModule(
        source,
        align_classes(open_source(dataset, task, dataset["val_split"]), source.class_names),
        augment=create_augment(config["augment"], spec.input),
        preprocess=spec.input,
        seed=config["seed"],
        **config["loader"],
    )
    model = VisionModel(spec)
    if start is not None:
        if qat.enabled:
            check_classes(source, start, task)
        load_weights(model, start, config["weights"])
        if unfolded := unfold_norms(model, datamodule.first_batches(_IMAGES_TO_MEASURE)):
            _log.info("%d batch norms that were folded have their statistics from the training images", unfolded)
    if trainer_config["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
    steps = int(min(datamodule.steps_per_epoch, trainer_config["limit_train_batches"] or math.inf))
    int8 = QuantizationAwareness(model, qat, steps) if qat.enabled else None
    task_module = VisionTask(
        model,
        optimizer=config["optimizer"],
        schedule=create_schedule(config["scheduler"], steps, trainer_config["max_epochs"]),
        finetuning=FineTuning(**config["finetune"]),
        ema_decay=config["ema"]["decay"],
        seed=config["seed"],
        int8=int8,
    )
    if int8 is not None and start is not None:
        int8.calibrate(model, (batch.images for batch in datamodule.first_batches(_IMAGES_TO_MEASURE)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _log.info(
        "%s on %s (%s): %d images, %d classes, %s with %.2f M parameters; the run goes to %s",
        task,
        dataset["name"],
        Path(dataset["root"]).resolve() if dataset.get("root") else "made on the fly",
        len(source),
        len(source.class_names),
        f"{config['backbone']['name']} + {config['head']['name']}",
        parameters / 1e6,
        run.path.resolve(),
    )
    return task_module, datamodule


def _trainer(config: dict[str, Any], run: RunFolder) -> lightning.Trainer:
    options = config["trainer"]
    monitor = f"val/{config['task']['monitor']}"
    checkpoint = partial(
        MovableCheckpoint, run.checkpoints, auto_insert_metric_name=False, enable_version_counter=False
    )
    callbacks: list[Callback] = [
        EpochOrder(),
        EpochLog(run.path / "metrics.csv"),
        checkpoint(Path(BEST).stem, monitor=monitor, mode="max", save_on_train_epoch_end=False),
        checkpoint(Path(LAST).stem, save_on_train_epoch_end=True),
        StopOnSignal(run.checkpoints / LAST),
    ]
    if options["early_stopping_patience"] is not None:
        callbacks.append(EarlyStopping(monitor, mode="max", patience=options["early_stopping_patience"]))
    shows_progress = options["progress_bar"] and Console().is_terminal
    if shows_progress:
        callbacks.append(RichProgressBar(leave=False))
    machine = {key: options[key] for key in ("accelerator", "devices", "precision")}
    try:
        return lightning.Trainer(
            **machine,
            max_epochs=options["max_epochs"],
            check_val_every_n_epoch=options["val_every_n_epochs"],
            gradient_clip_val=options["gradient_clip_norm"],
            limit_train_batches=options["limit_train_batches"],
            limit_val_batches=options["limit_val_batches"],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_progress_bar=shows_progress,
            enable_model_summary=False,
            logger=TensorBoardLogger(run.path, name="tensorboard", version=""),
            callbacks=callbacks,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        chosen = ", ".join(f"trainer.{key}={value}" for key, value in machine.items())
        raise UserError(f"This machine cannot train with {chosen}: {one_line(error)}") from None


def _finish(config: dict[str, Any], run: RunFolder, spec: ModelSpec, val: Source) -> None:
    """Saves the best epoch's weights as the run's model, and evaluates what was saved as ``tools/eval.py`` does."""
    task, dataset = config["task"]["name"], config["dataset"]
    best = run.checkpoints / BEST
    # There is no best epoch where none was validated.
    checkpoint = torch.load(best if best.is_file() else run.checkpoints / LAST, map_location="cpu", weights_only=True)
    averaged = config["ema"]["decay"] is not None
    prefix = "average.model." if averaged else "model."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    model = VisionModel(replace(spec, origin={**spec.origin, "epoch": checkpoint["epoch"] + 1}))
    model.load_state_dict(weights)
    if config["qat"]["enabled"]:
        round_weights(model)
    model.save(run.model)
    saved = VisionModel.load(run.model).to(memory_format=torch.channels_last)
    evaluate_model(
        TensorModel(saved),
        saved.spec,
        val,
        task=task,
        dataset=dataset["name"],
        split=dataset["val_split"],
        folder=run,
        **config["loader"],
    )
    plots.learning_curves(run.path / "metrics.csv", run.plots / "learning_curves.png")
    if config["export"]:
        export_trained(
            saved, run.model, [saved.input(val[i].image)[0] for i in evenly_spaced(len(val), _IMAGES_TO_CHECK)]
        )
    _log.info("the model of epoch %d is in %s", checkpoint["epoch"] + 1, run.model)


def _origin(config: dict[str, Any], run: RunFolder, start: VisionModel | None) -> dict[str, Any]:
    origin = {
        "made_by": f"mbv2kit {mbv2kit.__version__}, torch {torch.__version__}",
        "run": run.path.name,
        "dataset": config["dataset"]["name"],
        "weights": "moving average" if config["ema"]["decay"] is not None else "as trained",
    }
    if config["qat"]["enabled"]:
        origin["fine_tuned_for"] = "int8"
    return origin if start is None else origin | {"started_from": start.spec.origin}
