"""What a run does besides the steps: a row of metrics an epoch, checkpoints, and a clean end on a signal."""

import csv
import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from mbv2kit.data.datamodule import DataModule
from mbv2kit.training.task import VisionTask

_log = logging.getLogger(__name__)


class StoppedBySignal(Exception):  # noqa: N818 - not an error
    """A signal stopped the run, and its state is saved."""


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM finishes the batch, saves and ends the run; a second signal ends it at once.

    Args:
        checkpoint: File for the state.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._received: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Handles both signals; Lightning restores the previous handlers when the run ends."""
        # Python gives signals to the main thread alone.
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._remember)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(self, trainer: lightning.Trainer, *unused: Any, **named: Any) -> None:
        """Ends the run between two steps; after the last step of an epoch, validation and logging come first."""
        if self._received is not None and not trainer.is_last_batch:
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *unused: Any, **named: Any) -> None:
        """Ends the run between two batches of validation; the resumed run repeats that validation from its start."""
        if self._received is None:
            return
        # Lightning takes this state for a validation that stopped before its first batch was done. From any other state
        # it would skip the rest, and the metrics would be of a part of the images.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.increment_ready()
        progress.increment_started()
        progress.current.reset()
        self._stop(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Ends a run that received its signal in the last epoch; the state is saved by then."""
        if self._received is not None:
            raise StoppedBySignal(signal.Signals(self._received).name)

    def _stop(self, trainer: lightning.Trainer) -> None:
        assert self._received is not None
        trainer.save_checkpoint(self._checkpoint)
        raise StoppedBySignal(signal.Signals(self._received).name)


class EpochLog(Callback):
    """Writes a row an epoch to ``metrics.csv`` and a line to the log.

    A resumed run continues the same file and replaces the rows of epochs that it trains again.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, str]] = []
        self._started = 0.0
        self._validated = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Reads the rows of earlier epochs, and starts the clock, since a resumed epoch has no start."""
        self._started = time.perf_counter()
        if self._path.is_file():
            with self._path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the epoch's clock."""
        self._started = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Notes that this epoch has metrics of its own; Lightning keeps those of the last validation."""
        self._validated = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the row; validation has run by then."""
        assert isinstance(pl_module, VisionTask)
        scored = trainer.callback_metrics.items() if self._validated else ()
        metrics = {name: float(value) for name, value in scored if name.startswith("val/")} | pl_module.mean_losses()
        self._validated = False
        seconds = time.perf_counter() - self._started
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        values = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            **{name: f"{value:.6g}" for name, value in metrics.items()},
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
        shown = "  ".join(f"{name.removeprefix('val/')} {value:.4f}" for name, value in metrics.items())
        _log.info("epoch %d/%s  %s  %.1f s", trainer.current_epoch + 1, trainer.max_epochs, shown, seconds)


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that finds its best metric also after the run folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of a checkpoint, with every path moved into the current folder."""
        assert self.dirpath is not None
        folder = Path(self.dirpath)

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = {key: here(path) for key, path in state_dict.items() if key.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class EpochOrder(Callback):
    """Tells the data module the next epoch, which decides the order of the images."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Passes the epoch's number on."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, DataModule)
        datamodule.start_epoch(trainer.current_epoch)
