"""The epochs of a training run."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from signal import Signals
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from rich.console import Console

from mbv2kit.cli.logs import log_to
from mbv2kit.data.datamodule import DataModule
from mbv2kit.errors import UserError, one_line
from mbv2kit.files.writing import write_atomically
from mbv2kit.training.callbacks import Beginning, EpochLog, EpochOrder, LossBar, MovableCheckpoint
from mbv2kit.training.changes import describe_changes
from mbv2kit.training.checkpoints import WholeCheckpoints, is_over
from mbv2kit.training.pace import Pace
from mbv2kit.training.plan import Plan
from mbv2kit.training.stopping import PatientStopping, StopOnSignal, StoppedBySignal
from mbv2kit.training.task import VisionTask

_log = logging.getLogger(__name__)


def create_trainer(plan: Plan) -> lightning.Trainer:
    """Returns Lightning's trainer as the part ``trainer`` of a config describes it.

    Raises:
        UserError: The machine has no such accelerator, device or precision, or early stopping lacks validations.
    """
    options = plan.options["trainer"]
    monitor = f"val/{plan.config.task.monitor}"
    checkpoint = partial(
        MovableCheckpoint, plan.run.checkpoints, auto_insert_metric_name=False, enable_version_counter=False
    )
    pace = Pace()
    callbacks: list[Callback] = [
        EpochOrder(),
        pace,
        EpochLog(plan.run.epochs, pace),
        checkpoint(plan.best.stem, monitor=monitor, mode="max", save_on_train_epoch_end=False),
        checkpoint(plan.last.stem, save_on_train_epoch_end=True),
        StopOnSignal(plan.last),
    ]
    if (patience := options["early_stopping_patience"]) is not None:
        if options["limit_val_batches"] == 0 or options["val_every_n_epochs"] > options["max_epochs"]:
            raise UserError(
                f"trainer.early_stopping_patience={patience} needs validations, and trainer.limit_val_batches="
                f"{options['limit_val_batches']} with trainer.val_every_n_epochs={options['val_every_n_epochs']} "
                f"leaves none in {options['max_epochs']} epochs; set it to null, or validate."
            )
        callbacks.append(PatientStopping(monitor, patience))
    shows_progress = options["progress_bar"] and Console().is_terminal
    if shows_progress:
        callbacks.append(LossBar(leave=False))
    machine = {key: options[key] for key in ("accelerator", "devices", "precision")}
    chosen = ", ".join(f"trainer.{key}={value}" for key, value in machine.items())
    try:
        trainer = lightning.Trainer(
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
            plugins=[WholeCheckpoints()],
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"This machine cannot train with {chosen}: {one_line(error)}") from None
    # Lightning takes another one where the processor lacks it, and trains on.
    if trainer.precision != options["precision"]:
        raise UserError(
            f"This machine cannot train with {chosen}: its processor has no such precision; set trainer.precision="
            f"{trainer.precision}."
        )
    return trainer


def fit(
    trainer: lightning.Trainer, plan: Plan, task: VisionTask, data: DataModule, last: Mapping[str, Any] | None
) -> Signals | None:
    """Starts the run folder and trains.

    Args:
        trainer: As :func:`create_trainer` made it.
        plan: What to train.
        task: What to train it with.
        data: What to train on.
        last: The checkpoint to go on from; None for a new run.

    Returns:
        The signal that stopped training, with its state saved; None if it is finished.

    Raises:
        UserError: Three steps in a row were not finite, or something could not be read or written.
    """
    log_to(plan.run.log)

    # Later than what could go wrong in restoring the state: until then the folder stays as it was.
    def begin() -> None:
        for sentence in describe_changes(plan.run.read_config(), plan.options) if plan.resumed else ():
            _log.info("%s", sentence)
        write_atomically(plan.run.config, OmegaConf.to_yaml(OmegaConf.create(plan.options)))
        # A run with metrics counts as finished, which a continued one no longer is.
        plan.run.metrics.unlink(missing_ok=True)

    options = plan.options["trainer"]
    if last is not None and is_over(last, options["max_epochs"], options["early_stopping_patience"]):
        begin()
        return None
    trainer.callbacks.insert(0, Beginning(begin))  # type: ignore[attr-defined]
    try:
        with _quiet_threads():
            trainer.fit(task, datamodule=data, ckpt_path=plan.last if last is not None else None, weights_only=True)
    except StoppedBySignal as stop:
        how = "stopped and saved" if stop.saved else "stopped at once, without what came after the last checkpoint"
        _log.info("%s: %s; go on with: mbv2kit train resume=%s", stop, how, plan.run.path)
        return stop.signal
    if task.guard.skipped:
        _log.warning("%d steps were skipped because they were not finite", task.guard.skipped)
    return None


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Keeps TensorBoard's thread from printing a traceback where the disk is full; its next call raises the error."""
    before = threading.excepthook

    def hook(found: threading.ExceptHookArgs) -> None:
        if not isinstance(found.exc_value, OSError):
            before(found)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
