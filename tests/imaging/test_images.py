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
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.imaging.images import (
    SUFFIXES,
    UnreadableImageError,
    decode,
    decode_resized,
    resize_image,
    resize_mask,
    upright_size,
)
from mbv2kit.structures import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


def quarters(height: int = 32, width: int = 48) -> Image:
    """An image with red and green above, blue and white below: no two of its turns look alike."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = WHITE
    return image


def assert_quarters(image: Image, tolerance: int = 0) -> None:
    height, width = image.shape[:2]
    corners = image[[4, 4, height - 5, height - 5], [4, width - 5, 4, width - 5]]
    np.testing.assert_allclose(corners.astype(int), [RED, GREEN, BLUE, WHITE], atol=tolerance)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pgm", ".gif"}))
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    PillowImage.fromarray(quarters()).save(path, quality=95)
    image = decode(path)
    assert image.shape == (32, 48, 3)
    assert image.dtype == np.uint8
    assert_quarters(image, 12 if suffix in {".jpg", ".jpeg", ".webp"} else 0)


# EXIF says where row 0 and column 0 of the stored pixels belong; this is how an upright image is then stored.
STORED: dict[int, Callable[[Image], Image]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


def save_turned(image: Image, orientation: int, path: Path) -> None:
    turned = PillowImage.fromarray(np.ascontiguousarray(STORED[orientation](image)))
    exif = turned.getexif()
    exif[0x0112] = orientation
    turned.save(path, exif=exif, quality=95)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned{suffix}"
    save_turned(quarters(), orientation, path)
    image = decode(path)
    assert image.shape == (32, 48, 3)
    assert image.flags.c_contiguous
    assert_quarters(image, 12)
    assert upright_size(path) == (32, 48)


def test_the_size_of_an_unreadable_image_is_refused_as_the_image_is(tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    with pytest.raises(UnreadableImageError, match=r"text\.jpg: this is not an image"):
        upright_size(path)


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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".pgm"])
def test_gray_images_have_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"gray{suffix}"
    values = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))
    PillowImage.fromarray(values).save(path, quality=100)
    image = decode(path)
    assert image.shape == (16, 64, 3)
    np.testing.assert_array_equal(image[:, :, 0], image[:, :, 2])
    np.testing.assert_allclose(image[:, :, 1].astype(int), values, atol=2)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes_become_colors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"palette{suffix}"
    PillowImage.fromarray(quarters()).quantize(8).save(path)
    assert_quarters(decode(path), 2)


def test_transparent_pixels_are_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:, :4] = (255, 0, 0, 255)
    rgba[:4, 4:] = (255, 0, 0, 51)
    PillowImage.fromarray(rgba).save(tmp_path / "alpha.png")
    image = decode(tmp_path / "alpha.png")
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[0, 7].tolist() == [255, 204, 204]
    assert image[7, 7].tolist() == [255, 255, 255]


def test_a_transparent_color_of_a_palette_is_white(tmp_path: Path) -> None:
    indices = PillowImage.fromarray(np.array([[0, 1]], dtype=np.uint8).repeat(8, axis=0))
    indices.putpalette([0, 0, 255, 255, 0, 0])
    indices.save(tmp_path / "p.png", transparency=0)
    assert decode(tmp_path / "p.png")[0].tolist() == [[255, 255, 255], [255, 0, 0]]


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16).repeat(4, axis=0)
    for suffix in (".png", ".tif"):
        PillowImage.fromarray(values).save(tmp_path / f"deep{suffix}")
        image = decode(tmp_path / f"deep{suffix}")
        assert image[0].tolist() == [[0, 0, 0], [1, 1, 1], [128, 128, 128], [255, 255, 255]]


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    PillowImage.fromarray(quarters()).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert_quarters(decode(tmp_path / "print.jpg"), 12)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = PillowImage.new("RGB", (8, 8), RED), PillowImage.new("RGB", (8, 8), BLUE)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert decode(tmp_path / "moving.gif")[4, 4].tolist() == [255, 0, 0]


def test_the_suffix_does_not_decide(tmp_path: Path) -> None:
    PillowImage.fromarray(quarters()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert_quarters(decode(tmp_path / "a.jpg"))


def encoded(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = BytesIO()
    PillowImage.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_an_image_cut_short_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    (tmp_path / "short").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableImageError, match="short: "):
        decode(tmp_path / "short")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"class_id,x,y\n", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"file.jpg: .*{reason}"):
        decode(tmp_path / "file.jpg")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"none.jpg: there is no such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImageError):
        decode(tmp_path)


def test_an_image_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header + bytes(100))
    with pytest.raises(UnreadableImageError, match=r"bomb\.bmp"):
        decode(tmp_path / "bomb.bmp")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_gives_an_image_or_a_sentence_but_no_crash(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(encoded(kind))
    for place, value in changes:
        # Most of a file is pixels; squaring brings half of the changes into its first quarter, where the header is.
        data[int(place**2 * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        image = decode(path)
    except UnreadableImageError as error:
        message = str(error)
    else:
        message = f"{path}: read"
        assert image.ndim == 3
        assert image.shape[2] == 3
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def scene(height: int, width: int) -> Image:
    """An image with soft and sharp edges, fine patterns and colors, of any size."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = 60 * np.sin(x / 9) * np.cos(y / 13) + 30 * np.sin((x + 2 * y) / 3)
    discs = 80.0 * ((x % 61 - 30) ** 2 + (y % 47 - 23) ** 2 < 200)
    channels = [100 + waves + discs * share + 30 * np.sin(x / 50 + turn) for share, turn in ((1, 0), (0.5, 2), (0, 4))]
    image: Image = np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)
    return image


def resize_by_definition(image: Image, height: int, width: int) -> NDArray[np.float64]:
    """Averages over blocks, then straight lines between pixel centers, one axis after the other."""
    result: NDArray[np.float64] = image.astype(np.float64)
    for axis, wanted in enumerate((height, width)):
        side, block = result.shape[axis], 1
        while wanted * block * 2 <= side:
            block *= 2
        result = np.moveaxis(result, axis, 0)
        result = np.concatenate([result, np.repeat(result[-1:], -side % block, axis=0)])
        result = result.reshape(-1, block, *result.shape[1:]).mean(axis=1)
        places = ((np.arange(wanted) + 0.5) * side / wanted) / block - 0.5
        lines = [np.interp(places, np.arange(len(result)), line) for line in result.reshape(len(result), -1).T]
        result = np.moveaxis(np.stack(lines, axis=1).reshape(wanted, *result.shape[1:]), 0, axis)
    return result


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(st.integers(1, 90), st.integers(1, 90)), new=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_resizing_averages_over_blocks_and_interpolates_the_rest(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    # Half a level for the averages, and what OpenCV's fixed-point weights leave of the second rounding.
    np.testing.assert_allclose(resize_image(image, *new), resize_by_definition(image, *new), atol=1.5)


@given(size=SIZES, value=st.integers(0, 255))
def test_a_plain_image_stays_plain(size: tuple[int, int], value: int) -> None:
    resized = resize_image(np.full((7, 9, 3), value, dtype=np.uint8), *size)
    assert resized.shape == (*size, 3)
    assert (resized == value).all()


@given(old=SIZES, new=SIZES)
def test_a_mask_takes_the_class_under_each_new_pixels_center(old: tuple[int, int], new: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 256, old, dtype=np.uint8)
    rows, columns = (((2 * np.arange(n) + 1) * o) // (2 * n) for o, n in zip(old, new, strict=True))
    resized = resize_mask(mask, *new)
    assert resized.shape == new
    # Where a center falls just between two pixels, either of them is right.
    alternatives = [mask[np.ix_(rows + dy, columns + dx)] for dy in (-1, 0) for dx in (-1, 0)]
    on_edge_y = ((2 * np.arange(new[0]) + 1) * old[0]) % (2 * new[0]) == 0
    on_edge_x = ((2 * np.arange(new[1]) + 1) * old[1]) % (2 * new[1]) == 0
    clear = ~on_edge_y[:, None] & ~on_edge_x[None]
    np.testing.assert_array_equal(resized[clear], alternatives[3][clear])
    assert np.any([resized == each for each in alternatives], axis=0).all()


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


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_other_formats_are_resized_from_all_their_pixels(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_turned(scene(75, 100), orientation, path)
    resized, image = decode_resized(path, lambda height, width: (height // 3, width // 3))
    assert image == (75, 100)
    np.testing.assert_array_equal(resized, resize_image(scene(75, 100), 25, 33))


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
