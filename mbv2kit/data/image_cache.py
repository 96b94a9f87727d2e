"""Keeps the decoded images of a data set, in memory or on disk, for all epochs and processes of training."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.slots import Slots
from mbv2kit.errors import UserError
from mbv2kit.files.caches import cache_folder
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.imaging.images import Head, read_heads
from mbv2kit.imaging.parts import FileParts, KnownParts, Parts
from mbv2kit.memory import free_memory

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

Where = Literal["ram", "disk"]
# Another number for every change of what a slot holds.
_RULE = 1
# What must stay free: training itself needs memory.
_SPARE = {"ram": 2 * 2**30, "disk": 2**30}


@dataclass(frozen=True, slots=True)
class _Images:
    """What is known of N images before one is decoded.

    Attributes:
        stored: ``(N, 2)`` height and width of their pixels.
        orientations: ``(N,)``
        reduced: ``(N,)`` the side of the blocks over which each is averaged.
        stamps: ``(N, 2)`` size and time of change of their files.
    """

    stored: NDArray[np.int32]
    orientations: NDArray[np.uint8]
    reduced: NDArray[np.int32]
    stamps: NDArray[np.int64]

    @property
    def shapes(self) -> NDArray[np.int64]:
        """``(N, 2)``, the height and width that are kept of each."""
        return _reduce(self.stored, self.reduced[:, None])


class ImageCache:
    """Decoded images, each kept the first time that a part of it is asked for.

    An image is kept at the largest reduction of a JPEG, 1, 1/2, 1/4 or 1/8, that leaves every view of the augmentation
    the pixels that it shows. An image whose file has changed since is read from its file.

    Args:
        files: The images.
        most_reduced: How far an image of some height and width may be reduced.
        where: ``ram`` keeps them as long as a process uses them, ``disk`` for later runs too.

    Raises:
        UserError: There is no room, or a file is no image.
    """

    def __init__(self, files: Sequence[Path], most_reduced: Callable[[int, int], int], where: Where) -> None:
        self._images = _look_at(files, most_reduced)
        sizes = 3 * self._images.shapes.prod(axis=1)
        length = Slots.length(sizes)
        file, place = (_in_memory if where == "ram" else _on_disk)(length, files, self._images)
        self._slots = Slots(file, sizes)
        full = int((self._images.reduced == 1).sum())
        _log.info(
            "dataset.cache=%s keeps %d images decoded as they are first read, %d of them at full size: %s %s",
            *(where, len(files), full, gigabytes(length), place),
        )

    def parts(self, index: int, file: Path) -> Parts:
        """Returns the parts of an image.

        Args:
            index: Its place among ``files``.
            file: Its file.

        Raises:
            UnreadableImageError: See :func:`mbv2kit.imaging.images.decode`.
        """
        images = self._images
        stamp = tuple(images.stamps[index].tolist())
        if _stamp(file) != stamp:
            return FileParts(file)
        height, width = images.stored[index].tolist()
        head, reduced = Head((height, width), int(images.orientations[index])), int(images.reduced[index])
        pixels = self._slots[index]
        if pixels is None:
            parts = FileParts(file)
            averages = parts.averages(reduced)
            # It may have been replaced while it was read.
            if parts.head != head or _stamp(file) != stamp:
                return parts
            # A disk that others fill takes no more; what it lacks is decoded each time.
            with suppress(OSError):
                self._slots.fill(index, averages)
            return KnownParts(averages, head, reduced)
        return KnownParts(pixels.reshape(*_reduce(images.stored[index], reduced), 3), head, reduced)


def _reduce(sides: NDArray[np.int32], reduced: NDArray[np.int32] | int) -> NDArray[np.int64]:
    return -(-sides.astype(np.int64) // reduced)


def _look_at(paths: Sequence[Path], most_reduced: Callable[[int, int], int]) -> _Images:
    stamps = [_stamp(path) for path in paths]
    heads = read_heads(paths)
    return _Images(
        stored=np.array([head.stored for head in heads], dtype=np.int32).reshape(-1, 2),
        orientations=np.array([head.orientation for head in heads], dtype=np.uint8),
        reduced=np.array([most_reduced(*head.upright) for head in heads], dtype=np.int32),
        stamps=np.array(stamps, dtype=np.int64).reshape(-1, 2),
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        # Reading it says what is wrong.
        return (-1, -1)
    return found.st_size, found.st_mtime_ns


def _in_memory(length: int, paths: Sequence[Path], images: _Images) -> tuple[int, str]:
    """Returns a file without a name, which is gone with the last process that has it open."""
    free = free_memory()
    if free is not None and length > free - _SPARE["ram"]:
        raise UserError(
            f"dataset.cache=ram needs {gigabytes(length)} for the decoded images, and {gigabytes(free)} of memory are "
            f"free, of which {gigabytes(_SPARE['ram'])} stay for training; set dataset.cache=disk, or leave it out."
        )
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("mbv2kit-images")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, length)
    return file, "of memory"


def _on_disk(length: int, paths: Sequence[Path], images: _Images) -> tuple[int, str]:
    """Opens the file of these images, and removes those of the same images before they changed."""
    folder = cache_folder() / "images"
    same = _digest("\0".join(map(str, paths)).encode(), images.reduced.tobytes(), bytes([_RULE]))
    path = folder / f"{same}-{_digest(images.stamps.tobytes(), images.stored.tobytes(), images.orientations.tobytes())}"
    with disk_errors_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for older in folder.glob(f"{same}-*"):
            if older != path:
                _remove_unused(older)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH)
        taken = os.fstat(file).st_blocks * 512
        free = shutil.disk_usage(folder).free + taken
        if length > free - _SPARE["disk"]:
            os.close(file)
            if not taken:
                path.unlink()
            raise UserError(
                f"dataset.cache=disk needs {gigabytes(length)} for the decoded images, and {gigabytes(free)} are free "
                f"in {folder}, of which {gigabytes(_SPARE['disk'])} stay free; set MBV2KIT_CACHE to a folder on "
                "another disk, or leave it out."
            )
        os.ftruncate(file, length)
        # The oldest can be told by it.
        os.utime(path)
    return file, f"in {path}"


def _remove_unused(path: Path) -> None:
    """Removes a file that no process has open."""
    with suppress(OSError):
        file = os.open(path, os.O_RDWR)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def gigabytes(count: int) -> str:
    """Returns a number of bytes as text, in GB or MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
