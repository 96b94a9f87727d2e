import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from mbv2kit.imaging.images import UnreadableImageError, decode, decode_resized, read_head
from mbv2kit.imaging.resizing import resize_image
from mbv2kit.structures import Image
from tests.imaging.drawn import STORED, save_turned, scene


def encoded(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = BytesIO()
    PillowImage.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("wanted", [(150, 201), (74, 99), (40, 60), (37, 20), (17, 3), (200, 500), (301, 403)])
def test_a_jpeg_of_the_size_asked_for_looks_as_if_decoded_in_full(tmp_path: Path, wanted: tuple[int, int]) -> None:
    PillowImage.fromarray(scene(301, 403)).save(tmp_path / "a.jpg", quality=95)
    resized, image = decode_resized(tmp_path / "a.jpg", lambda height, width: wanted)
    assert image == (301, 403)
    assert resized.shape == (*wanted, 3)
    assert resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - resize_image(decode(tmp_path / "a.jpg"), *wanted)).mean() < 0.6


@pytest.mark.parametrize("orientation", STORED)
def test_a_reduced_jpeg_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    save_turned(scene(240, 320), orientation, tmp_path / "a.jpg")
    resized, image = decode_resized(tmp_path / "a.jpg", lambda height, width: (height // 5, width // 7))
    assert image == (240, 320)
    assert resized.shape == (48, 45, 3)
    assert resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - resize_image(decode(tmp_path / "a.jpg"), 48, 45)).mean() < 0.6


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("size", [(240, 320), (241, 327), (247, 321)])
def test_a_reduced_jpeg_is_neither_shifted_nor_stretched(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    # On a ramp the value of a pixel is the place that it came from: the center of its share of the true image.
    rows, columns = (np.linspace(20, 235, side) for side in size)
    ramps = np.stack(np.broadcast_arrays(rows[:, None], columns, columns), axis=2)
    save_turned(np.rint(ramps).astype(np.uint8), orientation, tmp_path / "a.jpg")
    resized, _ = decode_resized(tmp_path / "a.jpg", lambda height, width: (30, 40))
    for axis, side, wanted in ((0, size[0], 30), (1, size[1], 40)):
        centers = (np.arange(wanted) + 0.5) * side / wanted - 0.5
        found = resized[:, :, axis].mean(axis=1 - axis)
        np.testing.assert_allclose(found[1:-1], 20 + 215 * centers[1:-1] / (side - 1), atol=1.2)


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), wanted=st.tuples(st.integers(1, 90), st.integers(1, 90)))
@settings(max_examples=60, deadline=None)
def test_no_more_is_decoded_than_needed_and_no_less(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    decoded: list[tuple[int, int]] = []
    original = simplejpeg.decode_jpeg

    def spy(*arguments: Any, **options: Any) -> Image:
        image: Image = original(*arguments, **options)
        decoded.append((image.shape[0], image.shape[1]))
        return image

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplejpeg, "decode_jpeg", spy)
        path = Path(folder) / "a.jpg"
        PillowImage.fromarray(scene(*size)).save(path)
        resized, _ = decode_resized(path, lambda height, width: wanted)
    assert resized.shape == (*wanted, 3)
    ((height, width),) = decoded
    reduced = [factor for factor in (1, 2, 4, 8) if all(factor * w <= s for s, w in zip(size, wanted, strict=True))]
    factor = max(reduced, default=1)
    assert (height, width) == (-(-size[0] // factor), -(-size[1] // factor))
    assert factor == 1 or (height >= wanted[0] and width >= wanted[1])


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 5), (7, 3)])
def test_tiny_jpegs_are_decoded_as_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    PillowImage.fromarray(scene(*size)).save(tmp_path / "a.jpg", quality=95)
    with PillowImage.open(tmp_path / "a.jpg") as image:
        np.testing.assert_allclose(decode(tmp_path / "a.jpg").astype(int), np.asarray(image), atol=2)


@pytest.mark.parametrize("kind", ["L", "CMYK"])
def test_gray_and_print_jpegs_of_the_size_asked_for(tmp_path: Path, kind: str) -> None:
    PillowImage.fromarray(scene(120, 160)).convert(kind).save(tmp_path / "a.jpg", quality=95)
    resized, image = decode_resized(tmp_path / "a.jpg", lambda height, width: (30, 40))
    assert image == (120, 160)
    expected = resize_image(decode(tmp_path / "a.jpg"), 30, 40).astype(int)
    np.testing.assert_allclose(resized, expected, atol=0 if kind == "CMYK" else 12)
    assert np.abs(resized - expected).mean() < 0.6


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_jpeg_cut_short_is_refused_at_every_size(tmp_path: Path, share: float) -> None:
    data = encoded("JPEG")
    (tmp_path / "short").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableImageError, match="short: ") as whole:
        decode(tmp_path / "short")
    with pytest.raises(UnreadableImageError) as resized:
        decode_resized(tmp_path / "short", lambda height, width: (8, 8))
    assert str(resized.value) == str(whole.value)


def test_a_jpeg_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    data = encoded("JPEG")
    frame = data.index(b"\xff\xc0") + 5
    (tmp_path / "bomb.jpg").write_bytes(data[:frame] + struct.pack(">HH", 60_000, 50_000) + data[frame + 4 :])
    for read in (decode, lambda path: decode_resized(path, lambda height, width: (8, 8))):
        with pytest.raises(UnreadableImageError, match=r"bomb\.jpg: .*50000 x 60000 pixels"):
            read(tmp_path / "bomb.jpg")


def jpeg(**options: Any) -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(scene(80, 120)).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def scan_header(data: bytes) -> int:
    return data.index(b"\xff\xda")


def with_odd_scan(data: bytes) -> bytes:
    """What Samsung's phones write at the end of the header of a scan."""
    start = scan_header(data)
    end = start + 2 + data[start + 3]
    return data[: end - 3] + bytes(3) + data[end:]


def with_junk_at(data: bytes, marker: bytes, junk: bytes) -> bytes:
    place = data.index(marker, scan_header(data))
    return data[:place] + junk + data[place:]


KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}
HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "no end": lambda data: data[:-2],
    "half an end": lambda data: data[:-1],
    "zeros for the end": lambda data: data[:-2] + bytes(999),
    "a byte of junk": lambda data: with_junk_at(data, b"\xff\xd9", b"\x42" * 9),
    "much junk": lambda data: with_junk_at(data, b"\xff\xd9", bytes(999)),
    "junk and no end": lambda data: data[:-2] + b"\x42" * 99,
    "junk behind the end": lambda data: data + b"\xff\xd8junk\xff\xd9" * 99,
    "junk in the header": lambda data: data.replace(b"\xff\xdb", b"xyz\xff\xdb", 1),
    "another version": lambda data: data[:11] + b"\x09" + data[12:],
}
# libjpeg-turbo gives up where it should only warn.
THROUGH_PILLOW = ("junk in the header", "another version")
SEQUENTIAL: dict[str, Callable[[bytes], bytes]] = {
    "odd scan": with_odd_scan,
    "odd scan and junk": lambda data: with_odd_scan(with_junk_at(data, b"\xff\xd9", bytes(50))),
    "odd scan and no end": lambda data: with_odd_scan(data)[:-2],
}


@pytest.mark.parametrize(
    ("kind", "oddity"),
    [(kind, oddity) for kind in KINDS for oddity in (HARMLESS if kind == "progressive" else HARMLESS | SEQUENTIAL)],
)
def test_what_loses_no_pixel_is_read(tmp_path: Path, kind: str, oddity: str) -> None:
    data = jpeg(**KINDS[kind])
    (tmp_path / "clean.jpg").write_bytes(data)
    (tmp_path / "odd.jpg").write_bytes((HARMLESS | SEQUENTIAL)[oddity](data))
    np.testing.assert_array_equal(decode(tmp_path / "odd.jpg"), decode(tmp_path / "clean.jpg"))
    assert read_head(tmp_path / "odd.jpg").upright == (80, 120)
    # Through Pillow, an image is not shrunk by the decoder.
    odd, clean = (decode_resized(tmp_path / name, lambda h, w: (10, 15))[0] for name in ("odd.jpg", "clean.jpg"))
    np.testing.assert_allclose(
        odd.astype(int), clean, atol=0 if "header" not in oddity and "version" not in oddity else 4
    )


def test_junk_before_a_restart_is_read(tmp_path: Path) -> None:
    data = jpeg(restart_marker_rows=1)
    (tmp_path / "clean.jpg").write_bytes(data)
    (tmp_path / "odd.jpg").write_bytes(with_junk_at(data, b"\xff\xd2", b"\0" * 30))
    np.testing.assert_array_equal(decode(tmp_path / "odd.jpg"), decode(tmp_path / "clean.jpg"))


def without_restart(data: bytes) -> bytes:
    place = data.index(b"\xff\xd1", scan_header(data))
    return data[:place] + data[data.index(b"\xff\xd2", place) :]


LOSSES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "cut, with an end": lambda data: data[: len(data) // 2] + b"\xff\xd9",
    "cut by a few bytes": lambda data: data[:-40],
    "cut and zeros": lambda data: data[: len(data) // 2] + b"\xff\xd9" + bytes(99),
    "odd scan, cut": lambda data: with_odd_scan(data)[: len(data) // 2],
    "odd scan, cut, with an end": lambda data: with_odd_scan(data)[: len(data) // 2] + b"\xff\xd9",
}


@pytest.mark.parametrize(
    ("kind", "loss"),
    # The scans of a progressive JPEG have parameters of their own.
    [(kind, loss) for kind in KINDS for loss in LOSSES if kind != "progressive" or not loss.startswith("odd scan")],
)
def test_lost_pixels_are_an_error(tmp_path: Path, kind: str, loss: str) -> None:
    (tmp_path / "a.jpg").write_bytes(LOSSES[loss](jpeg(**KINDS[kind])))
    for read in (decode, lambda path: decode_resized(path, lambda height, width: (10, 15))):
        with pytest.raises(UnreadableImageError, match=r"a\.jpg: the image could not be read \(.*[Pp]remature end"):
            read(tmp_path / "a.jpg")


def test_a_lost_restart_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(without_restart(jpeg(restart_marker_rows=1)))
    with pytest.raises(UnreadableImageError, match="instead of RST"):
        decode(tmp_path / "a.jpg")
