import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.PngImagePlugin import PngInfo

from mbv2kit.imaging.images import Head, decode, decode_resized, read_head
from mbv2kit.imaging.orientation import turn, turn_boxes
from tests.imaging.drawn import STORED, WHITE, assert_quarters, quarters, save_turned


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned{suffix}"
    save_turned(quarters(), orientation, path)
    image = decode(path)
    assert image.shape == (32, 48, 3)
    assert image.flags.c_contiguous
    assert_quarters(image, 12)
    assert read_head(path).upright == (32, 48)


def exif_segment(order: str, orientation: int, *, start: int = 8, count: int = 1, length: int | None = None) -> bytes:
    """An APP1 segment of one EXIF entry, or of a damaged one."""
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start)
    tiff += struct.pack(order + "HHHIHHI", count, 0x0112, 3, 1, orientation, 0, 0)
    content = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2 if length is None else length) + content


def with_segments(*segments: bytes) -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(quarters()).save(buffer, "JPEG", quality=95)
    jpeg = buffer.getvalue()
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_found_in_either_order_of_bytes_and_behind_other_segments(tmp_path: Path, order: str) -> None:
    comment = b"\xff\xfe" + struct.pack(">H", 7) + b"hello"
    padding = b"\xff\xff"
    (tmp_path / "a.jpg").write_bytes(with_segments(comment, padding, exif_segment(order, 3)))
    np.testing.assert_allclose(decode(tmp_path / "a.jpg")[4, 4].astype(int), WHITE, atol=12)


@pytest.mark.parametrize(
    "segment",
    [
        exif_segment("<", 0),
        exif_segment("<", 9),
        exif_segment("<", 6, start=4_000_000_000),
        exif_segment(">", 0, count=65_535),
        b"\xff\xe1" + struct.pack(">H", 8) + b"Exif\0\0",
        b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0??*\0" + bytes(8),
        b"\xff\xe1" + struct.pack(">H", 13) + b"http:xmp\0\0\0",
    ],
)
def test_an_image_with_damaged_exif_is_read_as_it_is_stored(tmp_path: Path, segment: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(with_segments(segment))
    assert_quarters(decode(tmp_path / "a.jpg"), 12)


def test_damaged_exif_does_not_spoil_other_formats(tmp_path: Path) -> None:
    PillowImage.fromarray(quarters()).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff")
    assert_quarters(decode(tmp_path / "a.png"))


# The values of the orientation in EXIF: as numbers and as what is none. The last are in no standard.
ENTRIES = {
    "short": struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
    "long": struct.pack("<HHII", 0x0112, 4, 1, 8),
    "byte": struct.pack("<HHIB3x", 0x0112, 1, 1, 3),
    "fraction": struct.pack("<HHII", 0x0112, 5, 1, 26),
    "text": struct.pack("<HHI4s", 0x0112, 2, 2, b"6"),
    "two": struct.pack("<HHIHH", 0x0112, 3, 2, 6, 8),
    "nine": struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0),
    "large": struct.pack("<HHII", 0x0112, 4, 1, 70_000),
    "zero": struct.pack("<HHIHH", 0x0112, 3, 1, 0, 0),
    "other": struct.pack("<HHIHH", 0x0128, 3, 1, 2, 0),
}


def exif_of(entry: bytes) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<III", 0, 6, 1)


XMP = {
    "attribute": b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>',
    "element": b"<x:xmpmeta><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>",
    "nine": b'<x:xmpmeta tiff:Orientation="9"/>',
    "none": b"<x:xmpmeta/>",
}


@pytest.mark.parametrize("xmp", [None, *XMP])
@pytest.mark.parametrize(
    ("suffix", "entry"),
    # Pillow writes no other entry into a TIFF.
    [(suffix, entry) for suffix in (".jpg", ".png", ".webp") for entry in (None, *ENTRIES)]
    + [(".tif", entry) for entry in (None, "short", "long", "two", "nine", "zero", "other")],
)
def test_size_and_pixels_agree_with_pillow_whatever_says_the_orientation(
    tmp_path: Path, suffix: str, entry: str | None, xmp: str | None
) -> None:
    path = tmp_path / f"a{suffix}"
    options: dict[str, Any] = {} if entry is None else {"exif": exif_of(ENTRIES[entry])}
    if xmp is not None:
        options["xmp"] = XMP[xmp]
    if suffix == ".png" and xmp is not None:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    PillowImage.fromarray(quarters()).save(path, quality=95, **options)
    with PillowImage.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = decode(path)
    assert read_head(path).upright == found.shape[:2] == upright.shape[:2]
    np.testing.assert_allclose(found.astype(int), upright, atol=12)
    resized, original = decode_resized(path, lambda height, width: (height // 2, width // 2))
    assert original == found.shape[:2]
    assert resized.shape[:2] == (found.shape[0] // 2, found.shape[1] // 2)


def test_exif_may_go_on_in_a_second_segment(tmp_path: Path) -> None:
    exif = exif_of(ENTRIES["short"])
    parts = exif[:12], b"Exif\0\0" + exif[12:]
    segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts]
    (tmp_path / "a.jpg").write_bytes(with_segments(*segments))
    assert read_head(tmp_path / "a.jpg") == Head((32, 48), 6)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_head_tells_how_the_pixels_are_stored(tmp_path: Path, orientation: int, suffix: str) -> None:
    save_turned(quarters(), orientation, tmp_path / f"a{suffix}")
    head = read_head(tmp_path / f"a{suffix}")
    assert head == Head((32, 48) if orientation < 5 else (48, 32), orientation)
    assert head.upright == (32, 48)


@pytest.mark.parametrize("orientation", STORED)
def test_boxes_turn_with_the_pixels(orientation: int) -> None:
    upright = np.zeros((30, 40), dtype=np.uint8)
    upright[3:9, 20:35] = 1
    stored = np.ascontiguousarray(STORED[orientation](upright))
    np.testing.assert_array_equal(turn(stored, orientation), upright)
    rows, columns = np.nonzero(stored)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=np.float32)
    height, width = stored.shape
    assert turn_boxes(box, (height, width), orientation).tolist() == [[20, 3, 35, 9]]
