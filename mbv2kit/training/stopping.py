"""How a run ends before its last epoch: by a signal, or because nothing gets better."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping


class StoppedBySignal(Exception):  # noqa: N818 - not an error
    """A signal stopped the run.

    Args:
        number: The signal.
        saved: Whether the state of the run is saved; otherwise the last checkpoint is that of an earlier epoch.
    """

    def __init__(self, number: int, *, saved: bool = True) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)
        self.saved = saved


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
        if self._received is not None:
            # Lightning would end the process itself at a KeyboardInterrupt.
            raise StoppedBySignal(signum, saved=False)
        self._received = signum

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
            raise StoppedBySignal(self._received)

    def _stop(self, trainer: lightning.Trainer) -> None:
        assert self._received is not None
        trainer.save_checkpoint(self._checkpoint)
        raise StoppedBySignal(self._received)


class PatientStopping(EarlyStopping):
    """Stops a run after a number of validations without a better metric; one without any metric does not count.

    Args:
        monitor: Name of the metric, of which more is better.
        patience: The number of validations. That of a checkpoint does not count.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__(monitor, mode="max", patience=patience, check_finite=False, check_on_train_epoch_end=False)

    @property
    def state_key(self) -> str:
        """Key in checkpoints, which is the same as in those of earlier versions."""
        return f"EarlyStopping{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Counts the validation, if there is a metric."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and value.isfinite():
            super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what was counted."""
        super().load_state_dict({**state_dict, "patience": self.patience})
