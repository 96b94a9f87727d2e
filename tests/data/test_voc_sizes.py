import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv2kit.data.sources.voc import Voc
from mbv2kit.errors import UserError
from tests.data.voc_trees import make_tree, open_voc, write, xml

# The object in stored pixels, and where it lies after each turn of the 96 x 64 image.
STORED = (61, 9, 90, 28)
UPRIGHT = {
    1: [60, 8, 90, 28],
    3: [6, 36, 36, 56],
    6: [36, 60, 56, 90],
    8: [8, 6, 28, 36],
}


def size(width: Any, height: Any) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


def add(root: Path, name: str, orientation: int, of_size: str, box: tuple[Any, ...] = STORED) -> None:
    """Adds a black image with a white object, stored with an orientation, and its annotation."""
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[8:28, 60:90] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(root / f"JPEGImages/{name}.png", exif=exif)
    write(root, name, xml(("thing", box), size=of_size))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "JPEGImages").mkdir()
    return make_tree(tmp_path, {}, "a")


def boxes_of(source: Voc, index: int = 0) -> list[Any]:
    boxes = source[index].boxes
    assert boxes is not None
    return list(boxes.tolist())


def assert_on_object(source: Voc, index: int = 0) -> None:
    sample = source[index]
    (x1, y1, x2, y2) = map(int, boxes_of(source, index)[0])
    mask = np.zeros(sample.image.shape[:2], dtype=bool)
    mask[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(mask, sample.image[:, :, 0] > 128)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_stored_image_are_turned(tree: Path, orientation: int, caplog: pytest.LogCaptureFixture) -> None:
    add(tree, "a", orientation, size(96, 64))
    with caplog.at_level(logging.INFO):
        assert_on_object(open_voc(tree))
    assert "Turned the boxes of 1 images, which were annotated as their files store them: a.png" in caplog.text


@pytest.mark.parametrize("of_size", [size(64, 96), size(64.0, "96.0"), size(0, 0), size("", "x"), ""])
def test_boxes_of_the_upright_image_stay(tree: Path, of_size: str) -> None:
    add(tree, "a", 6, of_size, (37, 61, 56, 90))
    source = open_voc(tree)
    assert boxes_of(source) == [UPRIGHT[6]]
    assert_on_object(source)


@pytest.mark.parametrize("of_size", [size(96, 64), size(0, 0)])
def test_where_the_size_does_not_tell_the_other_images_do(tree: Path, of_size: str) -> None:
    add(tree, "a", 3, of_size)
    add(tree, "b", 6, size(96, 64))
    (tree / "ImageSets/Main/train.txt").write_text("a\nb\n")
    source = open_voc(tree)
    assert [boxes_of(source, index)[0] for index in range(2)] == [UPRIGHT[3], UPRIGHT[6]]


def test_where_nothing_tells_it_is_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tree, "a", 3, size(96, 64), (7, 37, 36, 56))
    with caplog.at_level(logging.INFO):
        assert_on_object(open_voc(tree))
    assert "1 images are turned by their EXIF, and <size> does not tell" in caplog.text


@pytest.mark.parametrize("of_size", [size(48, 32), size(192, 128), size(64, 96)])
def test_the_size_of_another_image_is_refused(tree: Path, of_size: str) -> None:
    add(tree, "a", 1, of_size)
    add(tree, "b", 1, of_size)
    (tree / "ImageSets/Main/train.txt").write_text("a\nb\n")
    with pytest.raises(
        UserError,
        match=r"a\.xml: <size> is \d+ x \d+ pixels, but the image a\.png has 96 x 64 \(and so in 1 more files\)",
    ):
        open_voc(tree)


def test_a_size_may_be_rounded(tree: Path) -> None:
    add(tree, "a", 6, size(95, 65))
    assert boxes_of(open_voc(tree)) == [UPRIGHT[6]]
    add(tree, "a", 1, size(95, 65))
    assert boxes_of(open_voc(tree)) == [UPRIGHT[1]]


def test_a_size_without_boxes_does_not_matter(tree: Path) -> None:
    add(tree, "a", 1, "")
    write(tree, "a", xml(size=size(48, 32)))
    assert boxes_of(open_voc(tree)) == []


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_of_the_stored_image_are_turned(tree: Path, orientation: int) -> None:
    add(tree, "a", orientation, "")
    for folder in ("ImageSets/Segmentation", "SegmentationClass"):
        (tree / folder).mkdir()
    (tree / "ImageSets/Segmentation/train.txt").write_text("a\n")
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[8:28, 60:90] = 1
    Image.fromarray(mask).save(tree / "SegmentationClass/a.png")
    sample = open_voc(tree, task="segmentation")[0]
    np.testing.assert_array_equal(sample.mask, sample.image[:, :, 0] // 255)


def test_a_mask_that_claims_to_be_enormous_is_refused(tree: Path) -> None:
    add(tree, "a", 1, "")
    for folder in ("ImageSets/Segmentation", "SegmentationClass"):
        (tree / folder).mkdir()
    (tree / "ImageSets/Segmentation/train.txt").write_text("a\n")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tree / "SegmentationClass/a.png")
    data = bytearray((tree / "SegmentationClass/a.png").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tree / "SegmentationClass/a.png").write_bytes(data)
    source = open_voc(tree, task="segmentation")
    with pytest.raises(UserError, match=r"a\.png: the mask could not be read \(Image size \(3600000000 pixels\)"):
        source[0]


def unreadable(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is None:
        path.symlink_to("nowhere")
    elif content == b"folder":
        path.mkdir()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"folder", r"Annotations: there is no \.xml file for 'a'"),
        (None, r"Annotations: there is no \.xml file for 'a'"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", r"a\.xml: this is not valid XML \(.*unknown encoding"),
        (b"<a>\xff\xfe</a>", r"a\.xml: this is not valid XML"),
        (b"", r"a\.xml: this is not valid XML"),
        (b"\0" * 99, r"a\.xml: this is not valid XML"),
        (b"<a>" * 100_000, r"a\.xml: this is not valid XML"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(tree: Path, content: bytes | None, message: str) -> None:
    add(tree, "a", 1, "")
    unreadable(tree / "Annotations/a.xml", content)
    with pytest.raises(UserError, match=message):
        open_voc(tree)


def test_an_annotation_without_permission_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tree, "a", 1, "")

    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mbv2kit.data.sources.voc.annotation.parse", fail)
    with pytest.raises(UserError, match=r"a\.xml: .*Permission denied"):
        open_voc(tree)
