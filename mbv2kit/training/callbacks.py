"""What a run does besides learning: a row of figures an epoch, and a clean end when it is told to stop."""

import csv
import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from mbv2kit.data.datamodule import DataModule
from mbv2kit.training.task import VisionTask

_log = logging.getLogger(__name__)


class StoppedBySignal(Exception):  # noqa: N818 - it is no error
    """The run was told to stop, and its state is saved."""


class StopOnSignal(Callback):
    """Answers the first Ctrl-C or SIGTERM by finishing the batch, saving and ending; a second one ends at once.

    Args:
        checkpoint: Where the state goes.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._received: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes over both signals; Lightning puts back the handlers from before when the run ends."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._remember)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(self, trainer: lightning.Trainer, *unused: Any, **named: Any) -> None:
        """Ends the run between two steps."""
        self._stop_if_told(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *unused: Any, **named: Any) -> None:
        """Ends the run between two batches of validation."""
        self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: lightning.Trainer) -> None:
        if self._received is not None:
            trainer.save_checkpoint(self._checkpoint)
            raise StoppedBySignal(signal.Signals(self._received).name)


class EpochLog(Callback):
    """Writes a row an epoch to ``metrics.csv`` and a line to the log.

    A resumed run goes on in the same file: rows of epochs that are trained again are replaced.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, str]] = []
        self._started = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes up the rows of the epochs before."""
        if self._path.is_file():
            with self._path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the row; validation has already run."""
        assert isinstance(pl_module, VisionTask)
        figures = {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}
        seconds = time.perf_counter() - self._started
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        values = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            **{name: f"{value:.6g}" for name, value in figures.items()},
            "lr": f"{rate:.6g}",
            "skipped_steps": pl_module.guard.skipped,
            "seconds": f"{seconds:.2f}",
        }
        self._rows.append({key: str(value) for key, value in values.items()})
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)
        shown = "  ".join(f"{name.removeprefix('val/')} {value:.4f}" for name, value in figures.items())
        _log.info("epoch %d/%s  %s  %.1f s", trainer.current_epoch + 1, trainer.max_epochs, shown, seconds)


class EpochOrder(Callback):
    """Tells the data module which epoch comes, since the order of the pictures depends on it."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Passes the epoch's number on."""
        assert isinstance(trainer.datamodule, DataModule)  # type: ignore[attr-defined]
        trainer.datamodule.start_epoch(trainer.current_epoch)
