"""What a run does besides the steps: a row of metrics an epoch, and checkpoints."""

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar

from mbv2kit.data.datamodule import DataModule
from mbv2kit.errors import UserError
from mbv2kit.files.writing import write_atomically
from mbv2kit.training.pace import Pace
from mbv2kit.training.task import VisionTask

_log = logging.getLogger(__name__)

# Metrics in the line of an epoch; metrics.csv has all of them.
_SHOWN = 3


class EpochLog(Callback):
    """Writes a row an epoch to ``metrics.csv`` and a line to the log.

    A resumed run continues the same file and replaces the rows of epochs that it trains again.

    Args:
        path: The CSV file.
        pace: Measures the steps.
    """

    def __init__(self, path: Path, pace: Pace) -> None:
        self._path = path
        self._pace = pace
        self._rows: list[dict[str, str]] = []
        self._started = 0.0
        self._validated = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Reads the rows of earlier epochs, and starts the clock, since a resumed epoch has no start."""
        self._started = time.perf_counter()
        if self._path.is_file():
            lines = self._path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines()
            rows = [row for row in csv.DictReader(lines) if None not in row and (row.get("epoch") or "").isdecimal()]
            self._rows = [row for row in rows if int(row["epoch"]) < trainer.current_epoch]
            if len(rows) < len(lines) - 1:
                _log.warning("%s: %d damaged rows are left out", self._path, len(lines) - 1 - len(rows))

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
        metrics = {name: float(value) for name, value in scored if name.startswith("val/")}
        metrics |= pl_module.mean_losses() | pl_module.pulls
        self._validated = False
        seconds = time.perf_counter() - self._started
        values = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            # An empty cell is no number: what the split cannot measure, or an epoch without validation.
            **{name: f"{value:.6g}" if math.isfinite(value) else "" for name, value in metrics.items()},
            "lr": f"{pl_module.last_rate():.6g}",
            "skipped_steps": pl_module.guard.skipped,
            "seconds": f"{seconds:.2f}",
            "images_per_second": f"{self._pace.images_per_second:.4g}",
            "waiting": f"{self._pace.waiting:.3f}",
        }
        self._rows.append({key: str(value) for key, value in values.items()})
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, names)
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, table.getvalue())
        known = {name.removeprefix("val/"): value for name, value in metrics.items() if math.isfinite(value)}
        first = [name for name in pl_module.headline if name in known] or [
            name for name in known if not name.startswith(("train/", "pull/"))
        ][:_SHOWN]
        line = "  ".join(f"{name} {known[name]:.4f}" for name in first) or "no metrics"
        epoch = trainer.current_epoch + 1
        loss = f"loss {known['train/loss']:.4f}" if "train/loss" in known else "no loss"
        pace = f"{self._pace.images_per_second:.1f} images/s"
        _log.info("epoch %d/%s  %s  %s  %.1f s  %s", epoch, trainer.max_epochs, line, loss, seconds, pace)
        self._pace.tell(trainer.datamodule.workers)  # type: ignore[attr-defined]


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that finds its best metric also after the run folder was moved; NaN and infinity are none."""

    _warned = False

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Saves the best epoch; without a metric there is no best one, and the last epoch is the model."""
        if self.monitor is not None:
            value = trainer.callback_metrics.get(self.monitor)
            if value is None:
                known = ", ".join(name.removeprefix("val/") for name in trainer.callback_metrics if "val/" in name)
                wanted = self.monitor.removeprefix("val/")
                raise UserError(
                    f"task.monitor={wanted} is none of the metrics of the evaluator: {known}; set task.monitor to one "
                    "of them."
                )
            if not value.isfinite():
                if not self._warned:
                    _log.warning(
                        "%s cannot be computed on the validation split; without it no epoch is the best, the last one "
                        "is kept, and early stopping waits",
                        self.monitor,
                    )
                self._warned = True
                return
        super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of a checkpoint, with every path moved into the current folder."""
        assert self.dirpath is not None
        folder = Path(self.dirpath)

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = {key: here(path) for key, path in state_dict.items() if key.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class LossBar(RichProgressBar):
    """A progress bar that shows the loss of the step before, for which the device need not be asked."""

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Returns what follows the bar."""
        assert isinstance(pl_module, VisionTask)
        metrics = super().get_metrics(trainer, pl_module)
        return metrics if pl_module.last_loss is None else metrics | {"loss": pl_module.last_loss}


class EpochOrder(Callback):
    """Tells the data module the next epoch, which decides the order of the images."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Passes the epoch's number on."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, DataModule)
        datamodule.start_epoch(trainer.current_epoch)


class Beginning(Callback):
    """Calls a function when a run is about to take its first step, with its state restored.

    Args:
        begin: The function.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Calls the function."""
        self._begin()
