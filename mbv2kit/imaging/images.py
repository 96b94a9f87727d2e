"""Decodes image files; needs no torch.

Training, validation, evaluation and inference all use these functions, so that a model scores the same wherever it
runs.
"""

import mmap
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.formats import is_heic, register_heic
from mbv2kit.imaging.jpeg import decode_jpeg, jpeg_metadata, jpeg_size
from mbv2kit.imaging.orientation import UPRIGHT, is_sideways, orientation_in, orientation_of, turn
from mbv2kit.imaging.pixels import from_pillow
from mbv2kit.imaging.resizing import cut_center, needed_scale, resize_image, resize_reduced
from mbv2kit.structures import Image

_READERS = 8
# The images that are decoded within decoded_once; None outside of it.
_decoded: ContextVar[dict[str, Image] | None] = ContextVar("_decoded", default=None)
_TIFF = (b"II*\0", b"MM\0*")


def quiet_pillow() -> None:
    """Keeps Pillow from warning of files that it reads all the same, with damaged EXIF for example.

    What costs pixels is an error here. Filters of the user come first.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


# Workers and programs that use this package have no other place where it could happen.
quiet_pillow()


class UnreadableImageError(UserError):
    """The file is missing, truncated or not an image."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an image without its pixels.

    Attributes:
        stored: Height and width of the pixels as the file stores them.
        orientation: How they become upright, see :mod:`mbv2kit.imaging.orientation`.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width that :func:`decode` gives the image."""
        height, width = self.stored
        return (width, height) if is_sideways(self.orientation) else (height, width)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The content of an image file, which may be on no disk, such as an upload.

    Attributes:
        data: The bytes of the file.
        name: What messages call it.
    """

    data: bytes = field(repr=False)
    name: str = "the image"

    @classmethod
    def read(cls, path: Path) -> "EncodedImage":
        """Reads a file.

        Raises:
            UnreadableImageError: There is no such file, or it is no regular one.
        """
        with reading(path):
            return cls(read_file(path), str(path))

    @property
    def suffix(self) -> str:
        """The suffix of its name in lower case, such as ``.jpg``."""
        return Path(self.name).suffix.lower()

    def __str__(self) -> str:
        """Returns what messages call it."""
        return self.name


File = str | Path | EncodedImage


def decode(path: File) -> Image:
    """Reads an image file of any format as RGB, turned upright by its EXIF or XMP.

    Gray, palette, CMYK and 16-bit images become 8-bit RGB; values of 32 bits must be in 0..255 or 0..65535, floats also
    in 0..1; transparent pixels are laid on white; of an animation the first frame is taken.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImageError: The file is missing, empty, truncated or not an image.
    """
    if isinstance(path, EncodedImage):
        # The name of an upload says nothing of its content.
        with reading(path):
            return _decode(path.data)
    return decode_content(str(path), lambda: read_file(path))


def decode_content(name: str, read: Callable[[], bytes]) -> Image:
    """Reads an image as :func:`decode`, from wherever its bytes are.

    Args:
        name: What messages call the image; no two images share it.
        read: Returns the bytes of its file.

    Raises:
        UnreadableImageError: See :func:`decode`.
    """
    kept = _decoded.get()
    if kept is not None and name in kept:
        return kept[name]
    with reading(name):
        image = _decode(read())
    if kept is not None:
        kept[name] = image
    return image


@contextmanager
def decoded_once(known: Mapping[Path, Image] = MappingProxyType({})) -> Iterator[None]:
    """Makes :func:`decode` read a file once, however often it is called within the block, which must not change it.

    Args:
        known: What it returns for some files, which are not read at all.
    """
    token = _decoded.set({**(_decoded.get() or {}), **{str(path): image for path, image in known.items()}})
    try:
        yield
    finally:
        _decoded.reset(token)


def decode_resized(
    path: File,
    size: Callable[[int, int], tuple[int, int]],
    kept: Callable[[int, int], tuple[int, int]] | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Reads an image as :func:`decode` and resizes it, but decodes no more than it needs.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves at least the requested number of pixels. The result
    differs from averages over blocks of pixels by less than half a gray level on average.

    Args:
        path: The file.
        size: Maps the height and width of the image to those of the result.
        kept: Maps the height and width of the image to those of its center, which alone is resized; None for all of it.

    Returns:
        The resized image, and the (height, width) of the original.

    Raises:
        UnreadableImageError: See :func:`decode`.
    """
    with reading(path):
        data = _read(path)
        stored = jpeg_size(data)
        if stored is None:
            return _resize_center(_decode_with_pillow(data), size, kept)
        head = Head(stored, orientation_in(*jpeg_metadata(data)))
        if kept is not None and kept(*head.upright) != head.upright:
            return _resize_center(turn(decode_jpeg(data, stored, 1), head.orientation), size, kept)
        # Pixels are turned last, when they are fewest; until then, sizes are as the file stores them.
        height, width = size(*head.upright)
        wanted = (width, height) if is_sideways(head.orientation) else (height, width)
        reduced = needed_scale(stored, wanted)
        resized = resize_reduced(decode_jpeg(data, stored, reduced), stored, wanted, reduced)
        return turn(resized, head.orientation), head.upright


def read_undecoded(path: str | Path) -> tuple[bytes, Head, Image | None]:
    """Reads an image file, and decodes it unless it is a JPEG, of which a part may suffice.

    Returns:
        The file, what is known of the image, and its upright pixels; None for a JPEG.

    Raises:
        Exception: Whatever a decoder raises; see :func:`reading`.
    """
    data = _read(path)
    stored = jpeg_size(data)
    if stored is not None:
        return data, Head(stored, orientation_in(*jpeg_metadata(data))), None
    image = _decode_with_pillow(data)
    return data, Head((image.shape[0], image.shape[1]), UPRIGHT), image


def _resize_center(
    image: Image,
    size: Callable[[int, int], tuple[int, int]],
    kept: Callable[[int, int], tuple[int, int]] | None,
) -> tuple[Image, tuple[int, int]]:
    height, width = image.shape[:2]
    center = image if kept is None else cut_center(image, *kept(height, width))
    return resize_image(center, *size(*center.shape[:2])), (height, width)


def read_head(path: str | Path) -> Head:
    """Returns the size and orientation with which :func:`decode` reads an image, from the head of its file if possible.

    Raises:
        UnreadableImageError: See :func:`decode`.
    """
    with reading(path):
        found = _read_head(path)
        if found is None:
            height, width = decode(path).shape[:2]
            found = Head((height, width), UPRIGHT)
        return found


def read_heads(paths: Sequence[Path]) -> list[Head]:
    """Returns :func:`read_head` of each file, several at a time, because a disk or network may be slow to open one.

    Raises:
        UnreadableImageError: See :func:`decode`; of the first file that cannot be read.
    """
    if len(paths) <= _READERS:
        return list(map(read_head, paths))
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read_head, paths))


@contextmanager
def reading(path: File, what: str = "image") -> Iterator[None]:
    """Turns whatever a decoder raises into :class:`UnreadableImageError`, which names the file.

    Args:
        path: The file.
        what: What the file is called in the message.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: there is no such file.") from None
    except UnidentifiedImageError:
        heic = " HEIC needs the package pillow-heif." if Path(str(path)).suffix.lower() in (".heic", ".heif") else ""
        raise UnreadableImageError(f"{path}: this is not an image in a known format.{heic}") from None
    except Exception as error:  # decoders raise errors of every type
        raise UnreadableImageError(f"{path}: the {what} could not be read ({one_line(error)}).") from None


def _read(path: File) -> bytes:
    return path.data if isinstance(path, EncodedImage) else read_file(path)


def read_file(path: str | Path) -> bytes:
    """Returns the bytes of an image's file.

    Raises:
        OSError: There is no such file, or it is a folder, a pipe or a device.
    """
    _check_regular(path)
    return Path(path).read_bytes()


def _check_regular(path: str | Path) -> None:
    # Reading a pipe would wait for ever, and so may a device.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder" if os.path.isdir(path) else "it is no regular file")


def _decode(data: bytes) -> Image:
    stored = jpeg_size(data)
    if stored is None:
        return _decode_with_pillow(data)
    return turn(decode_jpeg(data, stored, 1), orientation_in(*jpeg_metadata(data)))


def _decode_with_pillow(data: bytes) -> Image:
    if is_heic(data):
        register_heic()
    try:
        with PillowImage.open(BytesIO(data)) as image:
            return from_pillow(image)
    except UnidentifiedImageError:
        if data[:4] in _TIFF:
            raise ValueError(
                "it is a damaged TIFF, or one of a kind that Pillow cannot read; save it with 8 bits"
            ) from None
        raise


def _read_head(path: str | Path) -> Head | None:
    """Returns None for a file whose pixels must be read."""
    _check_regular(path)
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            stored = jpeg_size(data)
            if stored is not None:
                return Head(stored, orientation_in(*jpeg_metadata(data)))
            if is_heic(data):
                register_heic()
        return _pillow_head(file)


def _pillow_head(file: IO[bytes]) -> Head | None:
    try:
        with PillowImage.open(file) as image:
            orientation = orientation_of(image)
            if image.format != "TIFF":
                return Head(image.size[::-1], orientation)
            # Whether the size of a TIFF is turned already depends on the version of Pillow.
            height, width = from_pillow(image).shape[:2]
            return Head((width, height) if is_sideways(orientation) else (height, width), orientation)
    except Exception:  # a damaged head need not keep an image from being read
        return None
