"""Decodes JPEG files with libjpeg-turbo, which is several times as fast as Pillow and can shrink while it decodes.

libjpeg warns of much that is odd in a file, and only the first warning is known. What it says decides: where pixels
are lost the file is refused; what is harmless is mended in memory, so that the next warning shows.
"""

import re
import struct
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any

import numpy as np
import simplejpeg

from mbv2kit.structures import Image

# Pillow's limit for other formats: a file that claims more pixels is a mistake or an attack.
_MOST_PIXELS = 178_956_970
_START_OF_SCAN = b"\xff\xda"
_END = b"\xff\xd9"
# An end that is missing, odd scans, and junk; each once.
_MOST_MENDINGS = 4
_SEQUENTIAL = (0xFFC0, 0xFFC1)
_RESTARTS = 0xFFDD
# Of fewer rows, libjpeg might choose another scale.
_LEAST_ROWS = 64
_WHOLE_BLOCK = b"\0\x3f\0"
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x(..)")
# These warn of how a file is written, not of what it lacks.
_HARMLESS = re.compile(r"Inconsistent progression sequence|Unknown Adobe color transform|.*bad ICC marker")


def jpeg_size(data: bytes | mmap) -> tuple[int, int] | None:
    """Returns the height and width of a JPEG as stored; None for a file that libjpeg-turbo cannot decode to RGB.

    Raises:
        ValueError: It claims to be enormous.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colors not in ("RGB", "YCbCr", "Gray"):
        return None
    if height * width > _MOST_PIXELS:
        raise ValueError(f"it claims to have {width} x {height} pixels")
    return height, width


def jpeg_metadata(data: bytes | mmap) -> tuple[bytes, bytes]:
    """Returns the EXIF and the XMP of a JPEG; empty where it has none.

    Pillow finds the same, but it rejects an image whose EXIF is damaged.
    """
    exif = xmp = b""
    for marker, start, end in _segments(data):
        if marker == 0xFFE1:
            content = data[start + 4 : end]
            if content[:6] == b"Exif\0\0":
                # A long one continues in the next segment.
                exif += content[6:] if exif else content
            elif content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = content.partition(b"\0")[2]
    return exif, xmp


def decode_jpeg(data: bytes, stored: tuple[int, int], reduced: int) -> Image:
    """Decodes a JPEG, without turning it, at ``1 / reduced`` of its size, rounded up.

    Args:
        data: The file.
        stored: Its size, from :func:`jpeg_size`.
        reduced: 1, 2, 4 or 8.

    Raises:
        ValueError: Pixels are lost: the file is cut short or its data are damaged.
    """

    def attempt(data: bytes, strict: bool = True) -> Image:
        return _decode(data, stored, reduced, strict=strict)

    try:
        return attempt(data)
    except ValueError as error:
        return _decode_in_spite(data, error, attempt)


def decode_top(data: bytes, stored: tuple[int, int], reduced: int, rows: int) -> Image:
    """Decodes the upper rows of a JPEG, each as :func:`decode_jpeg` does, and few below them.

    The rows below are not looked at, so that damage there goes unnoticed. A progressive file, which stores every row in
    several places, is decoded whole.

    Args:
        data: The file.
        stored: Its size, from :func:`jpeg_size`.
        reduced: 1, 2, 4 or 8.
        rows: How many of its rows are needed, in pixels of the full size.

    Returns:
        At least the requested rows at ``1 / reduced`` of their size.

    Raises:
        ValueError: Pixels are lost, see :func:`decode_jpeg`.
    """
    # The colors of a row may be interpolated from the row below.
    kept = max(rows + 2 * reduced, _LEAST_ROWS)
    place = _place_of_height(data) if kept < stored[0] else None
    if place is None:
        return decode_jpeg(data, stored, reduced)
    image = np.empty((-(-kept // reduced), -(-stored[1] // reduced), 3), dtype=np.uint8)
    shorter = bytearray(data)
    struct.pack_into(">H", shorter, place, kept)
    try:
        _decode(shorter, (kept, stored[1]), reduced, buffer=image)
    except ValueError as error:
        # The rows left over stand between those that were decoded and the end, of which libjpeg warns when it is done.
        left_over = _EXTRANEOUS.match(str(error))
        if left_over is None or bytes([0xFF, int(left_over[2], 16)]) != _END:
            return decode_jpeg(data, stored, reduced)
    return image


def _place_of_height(data: bytes) -> int | None:
    """Returns where a JPEG that stores row after row says how many there are; None for any other."""
    place = components = None
    for marker, start, _ in _segments(data):
        if marker in _SEQUENTIAL:
            place, components = start + 5, data[start + 9]
        elif marker == _RESTARTS:
            # What is left over would show at the next restart, as damage does.
            return None
        elif marker == 0xFFDA and data[start + 4] == components:
            return place
    return None


def _decode(data: bytes | bytearray, stored: tuple[int, int], reduced: int, **options: Any) -> Image:
    # The smallest scale that gives the minimum is taken. 7/8 of a few pixels rounds up to all of them, so only a
    # minimum of 0 asks for the full size.
    height, width = (-(-side // reduced) if reduced > 1 else 0 for side in stored)
    return np.asarray(
        simplejpeg.decode_jpeg(
            data,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=height,
            min_width=width,
            min_factor=reduced,
            **options,
        )
    )


def _decode_in_spite(data: bytes, first: ValueError, attempt: Callable[[bytes, bool], Image]) -> Image:
    """Decodes a JPEG that libjpeg warns of; raises its warning if that says that pixels may be lost."""
    error = first
    for _ in range(_MOST_MENDINGS):
        mended = _mend(data, str(error))
        if mended is None:
            break
        if mended == data:
            return attempt(data, False)
        data = mended
        try:
            return attempt(data, True)
        except ValueError as next_error:
            error = next_error
    raise error


def _mend(data: bytes, warning: str) -> bytes | None:
    """Returns the file without what a warning is about, the same if that loses no pixel, None if it may."""
    scan = _first_scan(data)
    if scan is None:
        return None
    if data.find(_END, scan) < 0:
        # With an end, libjpeg says whether more than the end is missing.
        return data + _END
    if warning.startswith("Invalid SOS parameters"):
        return _with_whole_blocks(data)
    extraneous = _EXTRANEOUS.match(warning)
    if extraneous:
        count, marker = int(extraneous[1]), bytes([0xFF, int(extraneous[2], 16)])
        if marker == _END:
            end = data.find(_END, scan)
            return data[: max(scan, end - count)] + data[end:]
        return data if _restarts_in_order(data, scan) else None
    return data if _HARMLESS.match(warning) else None


def _segments(data: bytes | mmap) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end of the segments before the pixels, and of the first scan's header last."""
    place = 2
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker < 0xFFC0:
                return
            if marker == 0xFFFF:
                place += 1
                continue
            yield marker, place, place + 2 + length
            if marker == 0xFFDA:
                return
            place += 2 + length
    except struct.error:
        return


def _first_scan(data: bytes) -> int | None:
    """Returns where the data of the first scan begin."""
    return next((end for marker, _, end in _segments(data) if marker == 0xFFDA), None)


def _with_whole_blocks(data: bytes) -> bytes:
    """Gives every scan of a sequential JPEG the only parameters that it can have; some phones write others."""
    if not any(marker in _SEQUENTIAL for marker, _, _ in _segments(data)):
        return data
    mended = bytearray(data)
    place = next(start for marker, start, _ in _segments(data) if marker == 0xFFDA)
    end = data.find(_END, place)
    while 0 <= place < end:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        mended[place + 2 + length - 3 : place + 2 + length] = _WHOLE_BLOCK
        place = data.find(_START_OF_SCAN, place + 2 + length, end)
    return bytes(mended)


def _restarts_in_order(data: bytes, scan: int) -> bool:
    """Tells whether the restart markers of every scan count from 0 to 7 again and again: none is lost."""
    for part in data[scan : data.find(_END, scan)].split(_START_OF_SCAN):
        markers = re.findall(rb"\xff([\xd0-\xd7])", part)
        if any(marker[0] - 0xD0 != index % 8 for index, marker in enumerate(markers)):
            return False
    return True
