"""The epochs of a training run."""

import logging
from functools import partial

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from rich.console import Console

from mbv2kit.cli.logs import log_to
from mbv2kit.data.datamodule import DataModule
from mbv2kit.errors import UserError, one_line
from mbv2kit.training.callbacks import EpochLog, EpochOrder, MovableCheckpoint, StopOnSignal, StoppedBySignal
from mbv2kit.training.plan import Plan
from mbv2kit.training.task import VisionTask

_log = logging.getLogger(__name__)


def create_trainer(plan: Plan) -> lightning.Trainer:
    """Returns Lightning's trainer as the part ``trainer`` of a config describes it.

    Raises:
        UserError: The machine has no such accelerator, device or precision.
    """
    options = plan.options["trainer"]
    monitor = f"val/{plan.config.task.monitor}"
    checkpoint = partial(
        MovableCheckpoint, plan.run.checkpoints, auto_insert_metric_name=False, enable_version_counter=False
    )
    callbacks: list[Callback] = [
        EpochOrder(),
        EpochLog(plan.run.path / "metrics.csv"),
        checkpoint(plan.best.stem, monitor=monitor, mode="max", save_on_train_epoch_end=False),
        checkpoint(plan.last.stem, save_on_train_epoch_end=True),
        StopOnSignal(plan.last),
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
            logger=TensorBoardLogger(plan.run.path, name="tensorboard", version=""),
            callbacks=callbacks,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        chosen = ", ".join(f"trainer.{key}={value}" for key, value in machine.items())
        raise UserError(f"This machine cannot train with {chosen}: {one_line(error)}") from None


def fit(trainer: lightning.Trainer, plan: Plan, task: VisionTask, data: DataModule) -> bool:
    """Starts the run folder and trains, from the last checkpoint if there is one.

    Returns:
        Whether training is finished; False if a signal stopped it, with its state saved.

    Raises:
        UserError: Three steps in a row were not finite.
    """
    log_to(plan.run.log)
    OmegaConf.save(OmegaConf.create(plan.options), plan.run.config)
    # A run with metrics counts as finished, which a continued one no longer is.
    plan.run.metrics.unlink(missing_ok=True)
    last = plan.last if plan.last.is_file() else None
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    except StoppedBySignal as stop:
        _log.info("%s: stopped and saved; go on with: mbv2kit train resume=%s", stop, plan.run.path)
        return False
    if task.guard.skipped:
        _log.warning("%d steps were skipped because they were not finite", task.guard.skipped)
    return True
