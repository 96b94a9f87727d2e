import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import UnreadableImageError, decode
from mbv2kit.imaging.preprocess import Placement, Preprocess, Resize, preprocess_file
from mbv2kit.structures import Classification, Detections, Segmentation

SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


@pytest.mark.parametrize(
    ("resize", "content"), [("stretch", (64, 64)), ("letterbox", (32, 64)), ("pad", (32, 64)), ("crop", None)]
)
def test_a_large_image_is_placed(resize: Resize, content: tuple[int, int] | None) -> None:
    image = np.full((100, 200, 3), 200, dtype=np.uint8)
    pixels, placement = Preprocess((64, 64), resize, fill=3)(image)
    assert pixels.shape == (64, 64, 3)
    assert placement.image == (100, 200)
    if content is not None:
        assert placement.content == content
        assert (pixels[: content[0], : content[1]] == 200).all()
        assert (pixels[content[0] :] == 3).all()
        assert (pixels[:, content[1] :] == 3).all()
    else:
        assert (pixels == 200).all()


@pytest.mark.parametrize(("resize", "content"), [("stretch", (64, 64)), ("letterbox", (64, 32)), ("pad", (20, 10))])
def test_only_pad_leaves_a_small_image_as_it_is(resize: Resize, content: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)
    pixels, placement = Preprocess((64, 64), resize)(image)
    assert placement.content == content
    if resize == "pad":
        np.testing.assert_array_equal(pixels[:20, :10], image)
        assert (pixels[20:] == 127).all()


def test_crop_cuts_the_center_out_of_the_scaled_image() -> None:
    # Column values tell where a column came from: 80 rows and 160 columns become 64 by 128, then 56 by 56.
    image = np.repeat(np.tile(np.arange(160, dtype=np.uint8), (80, 1))[:, :, None], 3, axis=2)
    pixels, _ = Preprocess((56, 56), "crop", crop_fraction=0.875)(image)
    assert pixels.shape == (56, 56, 3)
    first, last = (pixels[30, column, 0] for column in (0, -1))
    assert first == pytest.approx(36 * 160 / 128 + 0.1, abs=1)
    assert last == pytest.approx(91 * 160 / 128 + 0.1, abs=1)


def test_crop_of_its_own_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels, _ = Preprocess((32, 32), "crop", crop_fraction=1.0)(image)
    np.testing.assert_array_equal(pixels, image)


@given(image=SIZES, size=SIZES, resize=st.sampled_from(["stretch", "letterbox", "pad", "crop"]))
def test_any_image_becomes_the_input(image: tuple[int, int], size: tuple[int, int], resize: Resize) -> None:
    pixels, placement = Preprocess(size, resize)(np.full((*image, 3), 9, dtype=np.uint8))
    assert pixels.shape == (*size, 3)
    assert placement.image == image
    assert placement.content[0] <= size[0]
    assert placement.content[1] <= size[1]


@given(image=SIZES, size=SIZES, resize=st.sampled_from(["stretch", "letterbox", "pad"]), data=st.data())
def test_boxes_come_back_to_the_image(
    image: tuple[int, int], size: tuple[int, int], resize: Resize, data: st.DataObject
) -> None:
    _, placement = Preprocess(size, resize)(np.zeros((*image, 3), dtype=np.uint8))
    shares = st.floats(0, 1, width=32)
    x1, x2 = sorted(data.draw(st.lists(shares, min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(data.draw(st.lists(shares, min_size=2, max_size=2, unique=True)))
    share = np.array([[x1, y1, x2, y2]])
    original = (share * [image[1], image[0], image[1], image[0]]).astype(np.float32)
    height, width = placement.content
    pixels = (share * [width, height, width, height]).astype(np.float32)
    back = placement.restore(Detections(pixels, np.array([4]), np.ones(1, dtype=np.float32)))
    assert isinstance(back, Detections)
    if len(back.boxes):
        np.testing.assert_allclose(back.boxes, original, rtol=1e-4, atol=1e-3)
    else:
        assert min(x2 - x1, y2 - y1) < 1e-4, "only a box that rounding has closed may go"


def test_boxes_are_clipped_and_those_outside_the_image_dropped() -> None:
    boxes = np.array([[-5, -5, 40, 90], [10, 55, 30, 60], [10, 10, 20, 20]], dtype=np.float32)
    found = Detections(boxes, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7], dtype=np.float32))
    restored = Placement(image=(100, 200), content=(50, 100)).restore(found)
    assert isinstance(restored, Detections)
    assert restored.boxes.tolist() == [[0, 0, 80, 100], [20, 20, 40, 40]]
    assert restored.class_ids.tolist() == [0, 2]
    assert restored.scores.tolist() == pytest.approx([0.9, 0.7])


@given(image=SIZES, size=SIZES, resize=st.sampled_from(["stretch", "letterbox", "pad"]))
def test_masks_come_back_without_the_filled_border(
    image: tuple[int, int], size: tuple[int, int], resize: Resize
) -> None:
    _, placement = Preprocess(size, resize)(np.zeros((*image, 3), dtype=np.uint8))
    mask: NDArray[np.uint8] = np.full(size, 7, dtype=np.uint8)
    mask[: placement.content[0], : placement.content[1]] = 1
    restored = placement.restore(Segmentation(mask))
    assert isinstance(restored, Segmentation)
    assert restored.mask.shape == image
    assert (restored.mask == 1).all()


def test_classes_stay_as_they_are() -> None:
    prediction = Classification(np.array([1]), np.ones(1, dtype=np.float32))
    assert Placement((10, 20), (5, 5)).restore(prediction) is prediction


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 5)}, "^size must be a list of 2, each a whole number from 1 to 8,192, got"),
        ({"size": (5, 5), "resize": "strech"}, "^resize must be one of .*, got 'strech'. Did you mean 'stretch'"),
        ({"size": (5, 5), "crop_fraction": 0.0}, "^crop_fraction must be"),
        ({"size": (5, 5), "crop_fraction": 1.5}, "^crop_fraction must be"),
        ({"size": (5, 5), "fill": 256}, "^fill must be"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("stored", [(240, 320), (241, 331), (40, 30), (9, 400)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "pad", "crop"])
def test_the_input_of_a_file_is_that_of_its_pixels(
    tmp_path: Path, resize: Resize, stored: tuple[int, int], orientation: int, suffix: str
) -> None:
    y, x = np.mgrid[0 : stored[0], 0 : stored[1]]
    soft = np.stack([128 + 90 * np.sin(x / 20), 128 + 90 * np.cos(y / 15), (x + y) % 256 * 0.5 + 60], axis=2)
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    PillowImage.fromarray(soft.astype(np.uint8)).save(path, exif=exif, quality=95)
    preprocess = Preprocess((48, 56), resize, fill=9)
    pixels, placement = preprocess_file(path, preprocess)
    expected, whole = preprocess(decode(path))
    assert placement == whole
    assert placement.image == (stored if orientation == 1 else stored[::-1])
    assert pixels.shape == (48, 56, 3)
    assert np.abs(pixels.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_inputs_of_real_files_hardly_depend_on_how_they_are_decoded(shared_data: Path, resize: Resize) -> None:
    preprocess = Preprocess((112, 112), resize)
    differences = []
    for path in sorted((shared_data / "imagenet_samples" / "val").glob("*/*"))[:12]:
        pixels, placement = preprocess_file(path, preprocess)
        expected, whole = preprocess(decode(path))
        assert placement == whole
        differences.append(np.abs(pixels.astype(int) - expected).mean())
    assert np.mean(differences) < 0.6


def test_an_unreadable_file_gives_no_input(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg"):
        preprocess_file(tmp_path / "a.jpg", Preprocess((8, 8)))


def test_inputs_are_made_without_torch() -> None:
    code = "import sys, mbv2kit.imaging.preprocess\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("height", "width"), [(1, 65_000), (64_999, 1), (3, 30_001)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_long_thin_image_is_cut_before_it_is_scaled(tmp_path: Path, height: int, width: int, suffix: str) -> None:
    # Scaled as a whole, the first would become 256 x 16 million pixels.
    long_side = max(height, width)
    line = (np.arange(long_side) * 255 // long_side).astype(np.uint8)
    ramp = np.broadcast_to(line.reshape((-1, 1, 1) if height > width else (1, -1, 1)), (height, width, 3))
    path = tmp_path / f"thin.{suffix}"
    PillowImage.fromarray(np.ascontiguousarray(ramp)).save(path, quality=95)
    preprocess = Preprocess((224, 224), "crop")
    assert np.prod(preprocess.scaled(*preprocess.kept(height, width)), dtype=float) < 2e6
    for pixels, placement in (preprocess(decode(path)), preprocess_file(path, preprocess)):
        assert pixels.shape == (224, 224, 3)
        assert placement.image == (height, width)
        assert abs(float(pixels.mean()) - 127) < 2, "the center of the image"


@given(SIZES, SIZES, st.sampled_from([0.5, 0.875, 1.0]))
def test_only_long_thin_images_are_cut_first(image: tuple[int, int], size: tuple[int, int], fraction: float) -> None:
    preprocess = Preprocess(size, "crop", crop_fraction=fraction)
    height, width = preprocess.kept(*image)
    if (height, width) == image:
        return
    assert max(side / wanted for side, wanted in zip(preprocess.scaled(*image), size, strict=True)) > 16
    assert (image[0] - height) % 2 == (image[1] - width) % 2 == 0
    scaled = preprocess.scaled(height, width)
    assert scaled[0] >= size[0]
    assert scaled[1] >= size[1]
