"""How batches and errors come from a loader's workers: one door, whether there are workers or not."""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import Dataset

from mbv2kit.errors import UserError, one_line

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """Takes the place of an item that could not be made.

    torch would rebuild the error in the training process, with the worker's traceback as its text.

    Attributes:
        sentence: What the user is told.
    """

    sentence: str


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch on its way between two processes.

    Attributes:
        content: What ``pickle`` reads.
    """

    content: bytes


class Guarded(Dataset[Any]):
    """A data set whose items may be faults, and that raises no error."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        return _or_fault(lambda: self._dataset[key], f"item {key}")


class Sender:
    """Makes a batch where the items are, and packs it for the way to the training process.

    Tensors travel in shared memory. Where there is too little of it, the bytes travel instead: torch would find out in
    a thread of its own, drop the batch, and training would wait for it for ever.

    Args:
        collate: Makes a batch of items.
        packs: Whether the batch leaves the process.
    """

    def __init__(self, collate: Callable[[Any], Any], *, packs: bool) -> None:
        self._collate = collate
        self._packs = packs
        self._shares = True

    def __call__(self, items: Any) -> Any:
        """Returns the batch, packed or not, or the first fault."""
        for item in items if isinstance(items, Sequence) else [items]:
            if isinstance(item, Fault):
                return item
        batch = _or_fault(lambda: self._collate(items), "a batch")
        return batch if isinstance(batch, Fault) or not self._packs else self._pack(batch)

    def _pack(self, batch: Any) -> Packed:
        if self._shares:
            try:
                return Packed(bytes(ForkingPickler.dumps(batch)))
            except (RuntimeError, OSError):
                # A second attempt would fail too, and each leaves files open.
                self._shares = False
        return Packed(pickle.dumps(batch))


def received(batches: Iterator[Any]) -> Iterator[Any]:
    """Yields unpacked batches, and raises the faults among them.

    Raises:
        UserError: An item or a batch could not be made, or did not arrive.
    """
    for batch in batches:
        if isinstance(batch, Fault):
            raise UserError(batch.sentence)
        yield _unpacked(batch) if isinstance(batch, Packed) else batch


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turns the error of a library or a plugin into one sentence that says what it is about.

    Raises:
        UserError: Something was raised within; an error of the user's stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        _log.debug("%s failed", what, exc_info=True)
        raise UserError(f"{what} failed ({type(error).__name__}: {one_line(error)}).") from error


def _or_fault(make: Callable[[], Any], what: str) -> Any:
    try:
        with naming(what):
            return make()
    except UserError as error:
        return Fault(str(error))


def worker_ended(what: str) -> UserError:
    """Returns the error for a worker that is no more."""
    return UserError(
        f"A process of loader.workers ended ({what}), most often because memory ran out; "
        "set loader.workers=0, or a smaller loader.batch_size."
    )


def _unpacked(batch: Packed) -> Any:
    try:
        return pickle.loads(batch.content)
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        # The worker keeps the files of shared memory open until they are fetched.
        raise worker_ended(one_line(error)) from None
    except OSError as error:
        raise UserError(
            f"A batch did not arrive from its process ({one_line(error)}); set loader.workers=0, or allow more open "
            "files (ulimit -n)."
        ) from None
