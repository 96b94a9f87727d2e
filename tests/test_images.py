import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.images import (
    SUFFIXES,
    InputRule,
    Placement,
    Resize,
    UnreadableImageError,
    decode,
    resize_image,
    resize_mask,
)
from mbv2kit.structures import Classification, Detections, Image, Segmentation

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


def quarters(height: int = 32, width: int = 48) -> Image:
    """A picture with red and green above, blue and white below: no two of its turns look alike."""
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
    path = tmp_path / f"picture{suffix}"
    PillowImage.fromarray(quarters()).save(path, quality=95)
    image = decode(path)
    assert image.shape == (32, 48, 3)
    assert image.dtype == np.uint8
    assert_quarters(image, 12 if suffix in {".jpg", ".jpeg", ".webp"} else 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    # EXIF says where row 0 and column 0 of the stored pixels belong; this stores them so that upright is `quarters`.
    stored: dict[int, Callable[[Image], Image]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }
    path = tmp_path / f"turned{suffix}"
    picture = PillowImage.fromarray(np.ascontiguousarray(stored[orientation](quarters())))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, quality=95)
    image = decode(path)
    assert image.shape == (32, 48, 3)
    assert_quarters(image, 12)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".pgm"])
def test_grey_pictures_have_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"grey{suffix}"
    values = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))
    PillowImage.fromarray(values).save(path, quality=100)
    image = decode(path)
    assert image.shape == (16, 64, 3)
    np.testing.assert_array_equal(image[:, :, 0], image[:, :, 2])
    np.testing.assert_allclose(image[:, :, 1].astype(int), values, atol=2)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes_become_colours(tmp_path: Path, suffix: str) -> None:
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


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
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
def test_a_picture_cut_short_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    (tmp_path / "short").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableImageError, match="short: "):
        decode(tmp_path / "short")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a picture"),
        (b"class_id,x,y\n", "not a picture"),
        (b"\xff\xd8\xff", "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"file.jpg: .*{reason}"):
        decode(tmp_path / "file.jpg")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"none.jpg: there is no such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImageError):
        decode(tmp_path)


def test_a_picture_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header + bytes(100))
    with pytest.raises(UnreadableImageError, match=r"bomb\.bmp"):
        decode(tmp_path / "bomb.bmp")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_gives_a_picture_or_a_sentence_but_no_crash(
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


def test_shrinking_averages_over_areas() -> None:
    board = (np.indices((40, 40)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize_image(np.repeat(board[:, :, None], 3, axis=2), 10, 10)
    assert small.shape == (10, 10, 3)
    assert np.unique(small).tolist() in ([127], [128])


@given(size=SIZES, value=st.integers(0, 255))
def test_a_plain_picture_stays_plain(size: tuple[int, int], value: int) -> None:
    resized = resize_image(np.full((7, 9, 3), value, dtype=np.uint8), *size)
    assert resized.shape == (*size, 3)
    assert (resized == value).all()


@given(old=SIZES, new=SIZES)
def test_a_mask_takes_the_class_under_each_new_pixels_centre(old: tuple[int, int], new: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 256, old, dtype=np.uint8)
    rows, columns = (((2 * np.arange(n) + 1) * o) // (2 * n) for o, n in zip(old, new, strict=True))
    resized = resize_mask(mask, *new)
    assert resized.shape == new
    # Where a centre falls just between two pixels, either of them is right.
    alternatives = [mask[np.ix_(rows + dy, columns + dx)] for dy in (-1, 0) for dx in (-1, 0)]
    on_edge_y = ((2 * np.arange(new[0]) + 1) * old[0]) % (2 * new[0]) == 0
    on_edge_x = ((2 * np.arange(new[1]) + 1) * old[1]) % (2 * new[1]) == 0
    clear = ~on_edge_y[:, None] & ~on_edge_x[None]
    np.testing.assert_array_equal(resized[clear], alternatives[3][clear])
    assert np.any([resized == each for each in alternatives], axis=0).all()


@pytest.mark.parametrize(
    ("resize", "content"), [("stretch", (64, 64)), ("letterbox", (32, 64)), ("pad", (32, 64)), ("crop", None)]
)
def test_rules_place_a_large_picture(resize: Resize, content: tuple[int, int] | None) -> None:
    image = np.full((100, 200, 3), 200, dtype=np.uint8)
    seen, placement = InputRule((64, 64), resize, fill=3)(image)
    assert seen.shape == (64, 64, 3)
    assert placement.picture == (100, 200)
    if content is not None:
        assert placement.content == content
        assert (seen[: content[0], : content[1]] == 200).all()
        assert (seen[content[0] :] == 3).all()
        assert (seen[:, content[1] :] == 3).all()
    else:
        assert (seen == 200).all()


@pytest.mark.parametrize(("resize", "content"), [("stretch", (64, 64)), ("letterbox", (64, 32)), ("pad", (20, 10))])
def test_only_pad_leaves_a_small_picture_as_it_is(resize: Resize, content: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)
    seen, placement = InputRule((64, 64), resize)(image)
    assert placement.content == content
    if resize == "pad":
        np.testing.assert_array_equal(seen[:20, :10], image)
        assert (seen[20:] == 127).all()


def test_crop_cuts_the_centre_out_of_the_scaled_picture() -> None:
    # Column values tell where a column came from: 80 rows and 160 columns become 64 by 128, then 56 by 56.
    image = np.repeat(np.tile(np.arange(160, dtype=np.uint8), (80, 1))[:, :, None], 3, axis=2)
    seen, _ = InputRule((56, 56), "crop", crop_fraction=0.875)(image)
    assert seen.shape == (56, 56, 3)
    first, last = (seen[30, column, 0] for column in (0, -1))
    assert first == pytest.approx(36 * 160 / 128 + 0.1, abs=1)
    assert last == pytest.approx(91 * 160 / 128 + 0.1, abs=1)


def test_crop_of_its_own_size_changes_nothing() -> None:
    image = quarters(32, 32)
    seen, _ = InputRule((32, 32), "crop", crop_fraction=1.0)(image)
    np.testing.assert_array_equal(seen, image)


@given(picture=SIZES, size=SIZES, resize=st.sampled_from(["stretch", "letterbox", "pad", "crop"]))
def test_any_picture_becomes_the_input(picture: tuple[int, int], size: tuple[int, int], resize: Resize) -> None:
    seen, placement = InputRule(size, resize)(np.full((*picture, 3), 9, dtype=np.uint8))
    assert seen.shape == (*size, 3)
    assert placement.picture == picture
    assert placement.content[0] <= size[0]
    assert placement.content[1] <= size[1]


@given(picture=SIZES, size=SIZES, resize=st.sampled_from(["stretch", "letterbox", "pad"]), data=st.data())
def test_boxes_come_back_to_the_picture(
    picture: tuple[int, int], size: tuple[int, int], resize: Resize, data: st.DataObject
) -> None:
    _, placement = InputRule(size, resize)(np.zeros((*picture, 3), dtype=np.uint8))
    shares = st.floats(0, 1, width=32)
    x1, x2 = sorted(data.draw(st.lists(shares, min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(data.draw(st.lists(shares, min_size=2, max_size=2, unique=True)))
    share = np.array([[x1, y1, x2, y2]])
    original = (share * [picture[1], picture[0], picture[1], picture[0]]).astype(np.float32)
    height, width = placement.content
    seen = (share * [width, height, width, height]).astype(np.float32)
    back = placement.restore(Detections(seen, np.array([4]), np.ones(1, dtype=np.float32)))
    assert isinstance(back, Detections)
    if len(back.boxes):
        np.testing.assert_allclose(back.boxes, original, rtol=1e-4, atol=1e-3)
    else:
        assert min(x2 - x1, y2 - y1) < 1e-4, "only a box that rounding has closed may go"


def test_boxes_are_clipped_and_those_beside_the_picture_dropped() -> None:
    boxes = np.array([[-5, -5, 40, 90], [10, 55, 30, 60], [10, 10, 20, 20]], dtype=np.float32)
    found = Detections(boxes, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7], dtype=np.float32))
    restored = Placement(picture=(100, 200), content=(50, 100)).restore(found)
    assert isinstance(restored, Detections)
    assert restored.boxes.tolist() == [[0, 0, 80, 100], [20, 20, 40, 40]]
    assert restored.class_ids.tolist() == [0, 2]
    assert restored.scores.tolist() == pytest.approx([0.9, 0.7])


@given(picture=SIZES, size=SIZES, resize=st.sampled_from(["stretch", "letterbox", "pad"]))
def test_masks_come_back_without_the_filled_border(
    picture: tuple[int, int], size: tuple[int, int], resize: Resize
) -> None:
    _, placement = InputRule(size, resize)(np.zeros((*picture, 3), dtype=np.uint8))
    mask: NDArray[np.uint8] = np.full(size, 7, dtype=np.uint8)
    mask[: placement.content[0], : placement.content[1]] = 1
    restored = placement.restore(Segmentation(mask))
    assert isinstance(restored, Segmentation)
    assert restored.mask.shape == picture
    assert (restored.mask == 1).all()


def test_classes_need_no_way_back() -> None:
    prediction = Classification(np.array([1]), np.ones(1, dtype=np.float32))
    assert Placement((10, 20), (5, 5)).restore(prediction) is prediction


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 5)}, "input.size"),
        ({"size": (5, 5), "resize": "strech"}, "'strech' is unknown. Did you mean 'stretch'"),
        ({"size": (5, 5), "crop_fraction": 0.0}, "input.crop_fraction"),
        ({"size": (5, 5), "crop_fraction": 1.5}, "input.crop_fraction"),
        ({"size": (5, 5), "fill": 256}, "input.fill"),
    ],
)
def test_a_wrong_rule_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputRule(**options)  # type: ignore[arg-type]
