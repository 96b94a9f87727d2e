import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv2kit.data.sources.voc import VOC_CLASSES
from mbv2kit.errors import UserError
from tests.data.voc_trees import HEIGHT, WIDTH, image, open_voc, write, xml


@pytest.fixture
def detection(tmp_path: Path) -> Path:
    """A tree of two splits; only ``val`` has a dog."""
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main/train.txt").write_text("b\na  -1\n\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("c\n")
    for name, suffix in (("a", ".jpg"), ("b", ".png"), ("c", ".JPEG")):
        image(tmp_path / "JPEGImages" / name, suffix)
    write(tmp_path, "a", xml(("cat", (1, 1, 40, 30)), ("cat", (5, 6, 5, 6)), ("cat", (30, 20, 50, 90))))
    write(tmp_path, "b", xml())
    write(tmp_path, "c", xml(("dog", (3, 4, 10, 12)), difficult="1"))
    return tmp_path


def test_boxes_become_continuous_and_invalid_ones_are_dropped(
    detection: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        source = open_voc(detection)
    empty, full = source[0], source[1]
    assert [empty.image_id, full.image_id] == ["b", "a"]
    assert empty.boxes is not None
    assert empty.boxes.shape == (0, 4)
    assert full.boxes is not None
    # Whole image: 1..40 x 1..30 in VOC's inclusive pixels.
    assert full.boxes.tolist() == [[0, 0, 40, 30], [29, 19, 40, 30]]
    assert source.dropped_boxes == 1
    dropped, beyond = caplog.messages
    assert dropped == "Dropped 1 boxes without area in 1 images: a"
    assert beyond.startswith("1 of 3 boxes reach beyond their image by more than a pixel, in 1 images: a;")


def test_voc_names_are_used_if_they_cover_all(detection: Path) -> None:
    source = open_voc(detection)
    assert source.class_names == VOC_CLASSES
    assert len(VOC_CLASSES) == 20
    assert source[1].labels is not None
    assert source[1].labels.tolist() == [VOC_CLASSES.index("cat")] * 2


def test_other_names_are_collected_over_all_lists(detection: Path) -> None:
    write(detection, "c", xml(("zebra", (3, 4, 10, 12))))
    train, val = (open_voc(detection, split=split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("cat", "zebra")
    assert val[0].labels is not None
    assert val[0].labels.tolist() == [1]


def test_classes_txt_decides_and_its_background_is_no_object_class(detection: Path) -> None:
    (detection / "classes.txt").write_text("background\ndog\ncat\n")
    source = open_voc(detection)
    assert source.class_names == ("dog", "cat")
    assert source[1].labels is not None
    assert source[1].labels.tolist() == [1, 1]
    (detection / "classes.txt").write_text("dog\ncats\n")
    with pytest.raises(UserError, match=r"a\.xml: the class 'cat' is not in classes\.txt\. Did you mean 'cats'"):
        open_voc(detection)


@pytest.mark.parametrize("text", ["", "a\nb\na\n"])
def test_a_list_of_classes_that_is_empty_or_repeats_is_refused(detection: Path, text: str) -> None:
    (detection / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"classes\.txt: .*; expected a class per line"):
        open_voc(detection)


@pytest.mark.parametrize(("difficult", "crowd"), [("ignore", [True]), ("count", [False])])
def test_difficult_objects(detection: Path, difficult: str, crowd: list[bool]) -> None:
    sample = open_voc(detection, split="val", difficult=difficult)[0]
    assert sample.crowd is not None
    assert sample.crowd.tolist() == crowd


def test_the_size_is_that_of_the_image(detection: Path) -> None:
    write(detection, "a", xml(("cat", (30, 20, 50, 90)), size="<size><width>0</width><height>0</height></size>"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(detection / "JPEGImages/a.jpg", exif=exif)
    sample = open_voc(detection)[1]
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[29, 19, 40, 30]]


def test_an_unknown_split_names_those_found_without_the_lists_of_one_class(detection: Path) -> None:
    (detection / "ImageSets/Main/cat_train.txt").write_text("a 1\n")
    with pytest.raises(UserError, match=r"no split 'test'; splits found: train, val\."):
        open_voc(detection, split="test")
    assert len(open_voc(detection, split="cat_train")) == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("JPEGImages/a.jpg", "no image for 'a'"),
        ("Annotations/a.xml", r"no \.xml file for 'a'"),
        ("Annotations", "for detection the folder Annotations is missing"),
        ("JPEGImages", "the folder JPEGImages is missing"),
        ("ImageSets/Main", "the folder ImageSets/Main is missing"),
    ],
)
def test_missing_files_are_reported(detection: Path, file: str, message: str) -> None:
    (detection / file).rename(detection / "elsewhere")
    with pytest.raises(UserError, match=message):
        open_voc(detection)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"a\.xml: this is not valid XML"),
        ('<!DOCTYPE x [<!ENTITY e "e">]><annotation>&e;</annotation>', "this is not valid XML"),
        (xml(("cat", ("", 1, 2, 3))), r"a\.xml: the <bndbox> of an object 'cat' must hold the numbers"),
        (xml(("", (1, 1, 2, 3))), r"a\.xml: an object has no <name>"),
        ("<html><object/></html>", r"a\.xml: the outermost element is <html>; expected <annotation>"),
    ],
)
def test_an_invalid_xml_is_reported(detection: Path, text: str, message: str) -> None:
    write(detection, "a", text)
    with pytest.raises(UserError, match=message):
        open_voc(detection)


def test_other_mistakes(detection: Path) -> None:
    with pytest.raises(UserError, match=r"^dataset 'voc': difficult must be one of ignore, count, got 'drop'"):
        open_voc(detection, difficult="drop")
    with pytest.raises(
        UserError, match=r"the folder ImageSets/Segmentation is missing \(the folders there are for detection"
    ):
        open_voc(detection, task="segmentation")
    (detection / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(UserError, match=r"train\.txt: the list is empty"):
        open_voc(detection)
    (detection / "ImageSets/Main/train.txt").write_text("a\n")
    (detection / "JPEGImages/a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.jpg: this is not an image"):
        open_voc(detection)


@pytest.fixture
def segmentation(tmp_path: Path) -> Path:
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (tmp_path / "SegmentationClass").mkdir()
    image(tmp_path / "JPEGImages/a", ".jpg")
    return tmp_path


def write_mask(root: Path, mask: np.ndarray, mode: str = "P") -> None:
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette(list(np.random.default_rng(0).permutation(768) % 256))
    image.save(root / "SegmentationClass/a.png")


@pytest.mark.parametrize("mode", ["P", "L"])
def test_masks_are_the_indices_of_the_png(segmentation: Path, mode: str) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 20, 255], np.uint8), (HEIGHT, WIDTH))
    write_mask(segmentation, mask, mode)
    source = open_voc(segmentation, task="segmentation")
    assert source.class_names == ("background", *VOC_CLASSES)
    sample = source[0]
    np.testing.assert_array_equal(sample.mask, mask)
    assert sample.boxes is None
    sample.mask[:] = 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), r"a\.png: the mask must be an 8-bit palette .* mode is RGB"),
        (
            np.full((HEIGHT, WIDTH), 3, np.uint8),
            r"a\.png: the mask holds class 3, but there are only 3 classes \(0 to 2",
        ),
        (np.zeros((WIDTH, HEIGHT), np.uint8), r"a\.png: the mask is 30 x 40 pixels, but its image is 40 x 30"),
    ],
)
def test_an_invalid_mask_is_reported(segmentation: Path, mask: np.ndarray, message: str) -> None:
    (segmentation / "classes.txt").write_text("a\nb\nc\n")
    write_mask(segmentation, mask, mode="L")
    source = open_voc(segmentation, task="segmentation")
    assert source.class_names == ("a", "b", "c")
    with pytest.raises(UserError, match=message):
        source[0]


def test_masks_without_a_list_of_classes_are_those_of_voc_with_a_warning(
    segmentation: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_mask(segmentation, np.zeros((HEIGHT, WIDTH), np.uint8))
    open_voc(segmentation, task="segmentation")
    assert "there is no classes.txt" in caplog.text
    assert "from 0 background and 1 aeroplane to 20 tvmonitor" in caplog.text
    caplog.clear()
    (segmentation / "classes.txt").write_text("background\ncat\n")
    open_voc(segmentation, task="segmentation")
    assert not caplog.text


def test_a_missing_or_broken_mask_is_reported(segmentation: Path) -> None:
    with pytest.raises(UserError, match=r"SegmentationClass: there is no \.png file for 'a'"):
        open_voc(segmentation, task="segmentation")
    (segmentation / "SegmentationClass/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png: this is not an image in a known format"):
        open_voc(segmentation, task="segmentation")[0]


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2805), ("val", 87, 1138)])
def test_bccd_counts(shared_data: Path, split: str, images: int, boxes: int) -> None:
    source = open_voc(shared_data / "bccd", split=split)
    assert len(source) == images
    assert source.class_names == ("Platelets", "RBC", "WBC")
    assert source.dropped_boxes == 1
    assert sum(len(source._table.boxes(i)) for i in range(images)) == boxes - 1
    sample = source[0]
    assert sample.boxes is not None
    assert sample.image.shape == (480, 640, 3)
    assert sample.boxes.min() >= 0
    assert (sample.boxes[:, 2:] - sample.boxes[:, :2] > 1).all()


def test_camvid(shared_data: Path) -> None:
    train, val = (open_voc(shared_data / "camvid", task="segmentation", split=s) for s in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    assert train.class_names == val.class_names
    assert len(train.class_names) == 11
    assert (train.class_names[0], train.class_names[-1]) == ("Sky", "Bicyclist")
    masks = [train[i].mask for i in range(0, 367, 40)]
    counts = np.bincount(np.concatenate([m.ravel() for m in masks if m is not None]), minlength=256)
    assert counts[11:255].sum() == 0
    assert 0.005 < counts[255] / counts.sum() < 0.1
    with pytest.raises(UserError, match=r"for detection the folder ImageSets/Main is missing .*are for segmentation"):
        open_voc(shared_data / "camvid")
