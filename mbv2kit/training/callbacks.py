"""What a run does besides learning: a row of figures an epoch, and a clean end when it is told to stop."""

import csv
import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

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
        """Ends the run between two steps; after an epoch's last step, what belongs to the epoch comes first."""
        if self._received is not None and not trainer.is_last_batch:
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *unused: Any, **named: Any) -> None:
        """Ends the run between two batches of validation; the resumed run starts that validation again."""
        if self._received is None:
            return
        # This is what Lightning takes for a validation that was interrupted before its first batch was done. Any other
        # state makes it leave out the rest, and the figures would be of some of the images.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.increment_ready()
        progress.increment_started()
        progress.current.reset()
        self._stop(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Ends a run that was told to stop in its last epoch, whose state is saved."""
        if self._received is not None:
            raise StoppedBySignal(signal.Signals(self._received).name)

    def _stop(self, trainer: lightning.Trainer) -> None:
        assert self._received is not None
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
        self._validated = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes up the rows of the epochs before, and starts the clock, since a resumed epoch has no start."""
        self._started = time.perf_counter()
        if self._path.is_file():
            with self._path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the epoch's clock."""
        self._started = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Notes that this epoch has figures of its own; Lightning keeps those of the last validation."""
        self._validated = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the row; validation has already run."""
        assert isinstance(pl_module, VisionTask)
        scored = trainer.callback_metrics.items() if self._validated else ()
        figures = {name: float(value) for name, value in scored if name.startswith("val/")} | pl_module.mean_losses()
        self._validated = False
        seconds = time.perf_counter() - self._started
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
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


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that knows its best figure also where the run's folder was moved since."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state of a checkpoint, with every path in the folder of now."""
        assert self.dirpath is not None
        folder = Path(self.dirpath)

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = {key: here(path) for key, path in state_dict.items() if key.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class EpochOrder(Callback):
    """Tells the data module which epoch comes, since the order of the images depends on it."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Passes the epoch's number on."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, DataModule)
        datamodule.start_epoch(trainer.current_epoch)
