from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.intake import to_rgb

sizes = st.tuples(st.integers(1, 6), st.integers(1, 6))


def pixels(*channels: int) -> st.SearchStrategy[NDArray[np.uint8]]:
    return sizes.flatmap(lambda size: arrays(np.uint8, (*size, *channels)))


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# What stays, and what is only put in another form.


def test_an_rgb_array_comes_back_as_it_is() -> None:
    image = noise(7, 5, 3)
    assert to_rgb(image) is image


@given(pixels(3))
def test_bgr_exchanges_red_and_blue(image: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(to_rgb(image, bgr=True), image[:, :, ::-1])
    np.testing.assert_array_equal(to_rgb(image[:, :, ::-1]), image[:, :, ::-1])


@given(pixels())
def test_gray_is_repeated_in_every_channel(image: NDArray[np.uint8]) -> None:
    for gray in (image, image[:, :, None]):
        for bgr in (False, True):
            np.testing.assert_array_equal(to_rgb(gray, bgr=bgr), np.stack([image] * 3, axis=-1))


@given(pixels(4))
def test_transparent_pixels_are_laid_on_white(image: NDArray[np.uint8]) -> None:
    color, alpha = image[..., :3].astype(float), image[..., 3:] / 255
    expected = color * alpha + 255 * (1 - alpha)
    assert np.abs(to_rgb(image) - expected).max() <= 1
    np.testing.assert_array_equal(to_rgb(image[..., [2, 1, 0, 3]], bgr=True), to_rgb(image))


def test_arrays_are_taken_with_any_strides() -> None:
    image = noise(8, 6, 3)
    taken = to_rgb(image[::2, ::-1])
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, image[::2, ::-1].copy())


@given(pixels(3))
def test_tensors_have_their_channels_first(image: NDArray[np.uint8]) -> None:
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    np.testing.assert_array_equal(to_rgb(tensor), image)
    np.testing.assert_array_equal(to_rgb(tensor, bgr=True), image[:, :, ::-1])
    np.testing.assert_array_equal(to_rgb(torch.nn.Parameter(tensor.double() / 255)), image)


def test_a_bfloat16_tensor_is_taken_with_the_precision_that_it_has() -> None:
    image = noise(9, 4, 3)
    tensor = (torch.from_numpy(image).permute(2, 0, 1) / 255).bfloat16()
    # Eight bits of mantissa: half a step below 1 is 1/512.
    assert np.abs(to_rgb(tensor).astype(int) - image).max() <= 1


# Ranges.


@given(pixels(3), st.sampled_from([np.float16, np.float32, np.float64]))
def test_floats_are_in_0_to_1(image: NDArray[np.uint8], kind: type[np.floating[Any]]) -> None:
    np.testing.assert_array_equal(to_rgb((image / 255).astype(kind)), image)


@given(sizes.flatmap(lambda size: arrays(np.float64, (*size, 3), elements=st.floats(0, 1))))
def test_a_float_becomes_the_nearest_gray_level(image: NDArray[np.float64]) -> None:
    assert np.abs(to_rgb(image) - image * 255).max() <= 0.5 + 1e-4


def test_floats_a_little_outside_are_clipped() -> None:
    image = np.array([[[-0.001, 0.5, 1.001]]], dtype=np.float32)
    assert to_rgb(image).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_wide_integers_are_in_0_to_255(kind: type[np.integer[Any]]) -> None:
    image = noise(5, 5, 3) // 2
    np.testing.assert_array_equal(to_rgb(image.astype(kind)), image)


def test_16_bits_are_read_as_in_a_16_bit_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 2**16, (31, 17), dtype=np.uint16)
    PillowImage.fromarray(image).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(to_rgb(image), decode(tmp_path / "gray.png"))


@given(pixels(3))
def test_16_bits_have_257_times_the_value_of_8(image: NDArray[np.uint8]) -> None:
    image[0, 0] = 255
    np.testing.assert_array_equal(to_rgb(image.astype(np.uint16) * 257), image)


def test_a_black_image_is_black_in_every_type() -> None:
    for kind in (np.uint8, np.uint16, np.int64, np.float32):
        assert not to_rgb(np.zeros((2, 2, 3), dtype=kind)).any()


# Pillow images.


def test_a_pillow_image_is_read_as_its_file(tmp_path: Path) -> None:
    image = PillowImage.fromarray(noise(12, 20, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with PillowImage.open(tmp_path / "turned.png") as opened:
        taken = to_rgb(opened)
    assert taken.shape == (20, 12, 3)
    np.testing.assert_array_equal(taken, decode(tmp_path / "turned.png"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pillow_image_has_any_mode(mode: str, tmp_path: Path) -> None:
    gray = PillowImage.fromarray(np.full((4, 6), 255, dtype=np.uint8))
    image = PillowImage.fromarray(np.full((4, 6), 65535, dtype=np.uint16)) if mode == "I;16" else gray.convert(mode)
    np.testing.assert_array_equal(to_rgb(image), np.full((4, 6, 3), 255, dtype=np.uint8))


def test_a_pillow_image_of_floats_is_in_0_to_1_as_an_array_is() -> None:
    image = noise(3, 4)
    taken = to_rgb(PillowImage.fromarray((image / 255).astype(np.float32)))
    np.testing.assert_array_equal(taken, np.stack([image] * 3, axis=-1))


def test_a_pillow_image_whose_file_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    PillowImage.fromarray(noise(50, 50, 3)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with PillowImage.open(file) as image, pytest.raises(UserError, match=r"Pillow image of .*cut\.png could not be"):
        to_rgb(image)


# Refusals.

REFUSED: dict[str, tuple[Any, str]] = {
    "floats in 0..255": (noise(4, 4, 3).astype(np.float32), r"must be in 0\.\.1, got .*divide by 255, or pass uint8"),
    "normalized floats": (noise(4, 4, 3) / 127.5 - 1, r"must be in 0\.\.1, got -.*before normalization"),
    "NaN": (np.full((2, 2, 3), np.nan), "not a number"),
    "infinity": (np.full((2, 2, 3), np.inf), "infinite"),
    "large integers": (noise(4, 4, 3).astype(np.int64) * 257, r"int64 must be in 0\.\.255, got .*as uint16"),
    "negative integers": (noise(4, 4, 3).astype(np.int16) - 255, r"int16 must be in 0\.\.255, got -"),
    "8 bits in 16": (noise(4, 4, 3).astype(np.uint16), r"uint16 .* the highest is 2\d\d.*astype\(np\.uint8\)"),
    "bool": (noise(4, 4) > 127, "dtype bool"),
    "complex": (noise(4, 4).astype(complex), "dtype complex128"),
    "text": (np.full((2, 2), "x"), "dtype <U1"),
    "channels first": (noise(3, 8, 6), r"got \(3, 8, 6\); pass array\.transpose\(1, 2, 0\)"),
    "a batch": (noise(2, 8, 6, 3), r"got a batch \(2, 8, 6, 3\); pass the images as a list"),
    "two channels": (noise(8, 6, 2), r"\(H, W, 4\), got \(8, 6, 2\)"),
    "a line": (noise(8), r"got \(8,\)"),
    "a point": (np.array(1.0), r"got \(\)"),
    "nothing": (noise(0, 6, 3), r"got \(0, 6, 3\)"),
    "channels last in a tensor": (torch.zeros(8, 6, 3), r"must be \(3, H, W\), got .*permute\(2, 0, 1\)"),
    "a batch of tensors": (torch.zeros(2, 3, 8, 6), r"got a batch \(2, 3, 8, 6\)"),
    "a strange tensor": (torch.zeros(5, 8, 6), r"\(4, H, W\), got \(5, 8, 6\)"),
    "an empty tensor": (torch.zeros(3, 0, 6), r"got \(3, 0, 6\)"),
    "a nested list": ([[0, 1]], "a numpy array, a torch tensor or a Pillow image, got builtins.list"),
    "None": (None, "must not be None; cv2.imread returns it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_in_a_sentence(name: str) -> None:
    image, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as refusal:
        to_rgb(image)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_opencvs_own_conversion_agrees(tmp_path: Path) -> None:
    PillowImage.fromarray(noise(10, 14, 3)).save(tmp_path / "image.png")
    frame = cv2.imread(str(tmp_path / "image.png"))
    assert frame is not None
    np.testing.assert_array_equal(to_rgb(frame, bgr=True), decode(tmp_path / "image.png"))
