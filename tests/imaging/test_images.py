import os
import struct
import warnings
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import PngImagePlugin

from mbv2kit.imaging import formats
from mbv2kit.imaging.formats import SUFFIXES
from mbv2kit.imaging.images import (
    EncodedImage,
    UnreadableImageError,
    decode,
    decode_resized,
    decoded_once,
    quiet_pillow,
    read_head,
)
from mbv2kit.imaging.resizing import resize_image
from tests.imaging.drawn import BLUE, RED, STORED, assert_quarters, quarters, save_turned, scene


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pgm", ".pbm", ".gif", ".heic", ".heif"}))
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    PillowImage.fromarray(quarters()).save(path, quality=95)
    image = decode(path)
    assert image.shape == (32, 48, 3)
    assert image.dtype == np.uint8
    assert_quarters(image, 0 if suffix in {".png", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pnm"} else 12)
    assert read_head(path).upright == (32, 48)


def test_the_size_of_an_unreadable_image_is_refused_as_the_image_is(tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    with pytest.raises(UnreadableImageError, match=r"text\.jpg: this is not an image"):
        read_head(path)


def test_a_tiff_that_loses_pixels_is_refused_without_a_word_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bits = np.random.default_rng(0).random((64, 64)) > 0.5
    PillowImage.fromarray(bits).save(tmp_path / "fax.tif", compression="group4")
    assert decode(tmp_path / "fax.tif").shape == (64, 64, 3)
    data = bytearray((tmp_path / "fax.tif").read_bytes())
    data[20:120] = bytes(100)
    (tmp_path / "fax.tif").write_bytes(data)
    with pytest.raises(
        UnreadableImageError, match=r"fax\.tif: .* \(its pixels are damaged \(Fax4Decode: Bad code word"
    ):
        decode(tmp_path / "fax.tif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_pillow_says_nothing_of_images_that_are_read(tmp_path: Path, quiet: bool) -> None:
    # An entry of EXIF that ends before its value.
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
    PillowImage.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        if quiet:
            quiet_pillow()
        assert decode(tmp_path / "a.jpg").shape == (8, 8, 3)
    assert bool(caught) is not quiet


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (decode, read_head, lambda path: decode_resized(path, lambda height, width: (8, 8))):
        with pytest.raises(
            UnreadableImageError, match=r"pipe\.jpg: the image could not be read \(it is no regular file"
        ):
            read(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    "error", [RuntimeError("bad"), NotImplementedError(), struct.error("x"), MemoryError(), KeyError(7)]
)
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "odd.png").write_bytes(encoded("PNG"))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    for read in (decode, lambda path: decode_resized(path, lambda height, width: (8, 8))):
        with pytest.raises(UnreadableImageError, match=r"odd\.png: the image could not be read \(.+\)\.$"):
            read(tmp_path / "odd.png")


def test_a_format_that_pillow_knows_in_part_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<4sIIIIIII44xII4s20x20x", b"DDS ", 124, 0, 8, 8, 0, 0, 0, 32, 4, b"QQQQ")
    (tmp_path / "a.png").write_bytes(header + bytes(200))
    with pytest.raises(UnreadableImageError, match=r"a\.png: the image could not be read \(Unimplemented"):
        decode(tmp_path / "a.png")


def test_heic_without_its_plugin_names_the_package(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(UnreadableImageError, match=r"a\.heic: "):
        decode(tmp_path / "a.heic")


def test_the_plugin_for_heic_is_used_if_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[str] = []
    monkeypatch.setattr(formats, "find_spec", lambda name: name)
    monkeypatch.setattr(
        formats, "import_module", lambda name: SimpleNamespace(register_heif_opener=lambda: registered.append(name))
    )
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    formats.register_heic.cache_clear()
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "a.heic")
    formats.register_heic.cache_clear()
    assert registered == ["pillow_heif"]


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


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_other_formats_are_resized_from_all_their_pixels(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_turned(scene(75, 100), orientation, path)
    resized, image = decode_resized(path, lambda height, width: (height // 3, width // 3))
    assert image == (75, 100)
    np.testing.assert_array_equal(resized, resize_image(scene(75, 100), 25, 33))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_content_of_a_file_is_read_as_the_file_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.fromarray(pixels).resize((900, 600)).save(path, exif=exif)
    content = EncodedImage(path.read_bytes())
    np.testing.assert_array_equal(decode(content), decode(path))
    for ours, theirs in zip(
        decode_resized(content, lambda *_: (31, 20)), decode_resized(path, lambda *_: (31, 20)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_name_of_some_content_is_only_for_messages(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    PillowImage.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "real.png")
    data = (tmp_path / "real.png").read_bytes()
    with decoded_once():
        decode(tmp_path / "real.png")
        with pytest.raises(UnreadableImageError, match=r"^\S*real\.png: this is not an image in a known format\.$"):
            decode(EncodedImage(b"none", str(tmp_path / "real.png")))
        assert decode(EncodedImage(data, str(tmp_path / "secret.png"))).shape == (2, 3, 3)
    with pytest.raises(UnreadableImageError, match=r"^the image: "):
        decode(EncodedImage(b""))
