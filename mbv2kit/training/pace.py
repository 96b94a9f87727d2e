"""How fast the steps of an epoch are, and how long they wait for images."""

import logging
import os
import time

import lightning
from lightning.pytorch.callbacks import Callback

_log = logging.getLogger(__name__)

# Shorter epochs are mostly the start of the processes that read.
_SECONDS_TO_JUDGE = 20.0
_MOST_WAITING = 0.1
# Share of the cores from which on another process would only take turns with the others.
_BUSY = 0.75


def _has_idle_cores() -> bool:
    """Tells whether the machine has idle cores, by its load of the last minute; True where a system does not say."""
    try:
        load, _, _ = os.getloadavg()
    except (AttributeError, OSError):
        return True
    return load < _BUSY * (os.cpu_count() or 1)


class Pace(Callback):
    """Measures the steps of each epoch, without its validation.

    Attributes:
        images: Images of the epoch so far.
        seconds: Time of its steps, with the wait for their images.
        waited: The part of that time that was spent waiting.
    """

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._since = 0.0
        self._told = False

    @property
    def images_per_second(self) -> float:
        """Images that training took in a second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting(self) -> float:
        """The share of the time that training waited for images, 0..1."""
        return self.waited / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock of an epoch that goes on after a stop, which has no start."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock."""
        self.images, self.seconds, self.waited = 0, 0.0, 0.0
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Counts the wait for the batch."""
        self.waited += self._lap()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Counts the step."""
        self._lap()
        self.images += len(batch.image_ids)  # type: ignore[attr-defined]

    def tell(self, workers: int) -> None:
        """Warns, once, where an epoch waited for images for more than a tenth of its time, next to idle cores.

        Args:
            workers: Processes that read.
        """
        if self._told or self.seconds < _SECONDS_TO_JUDGE or self.waiting <= _MOST_WAITING or not _has_idle_cores():
            return
        self._told = True
        _log.warning(
            "training waited %.0f %% of the time for images, and cores are idle; let more processes read: "
            "loader.workers=%d",
            100 * self.waiting,
            workers + 1,
        )

    def _lap(self) -> float:
        """Returns the seconds since the last call, which belong to the epoch."""
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        self.seconds += passed
        return passed
