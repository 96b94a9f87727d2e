"""COCO files as other programs write them, and what is odd in them."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv2kit.data.sources import create_source
from mbv2kit.data.sources.coco import Coco
from mbv2kit.errors import UserError

HEIGHT, WIDTH = 30, 40
TRIANGLE = [[4.0, 4.0, 20.0, 4.0, 4.0, 20.0]]


def entry(number: Any = 1, image: Any = 1, category: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": [4, 4, 16, 16], **more}


def coco(*annotations: dict[str, Any], images: Any = None, categories: Any = None) -> dict[str, Any]:
    return {
        "images": images or [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": list(annotations),
        "categories": categories or [{"id": 1, "name": "cell"}],
    }


def save(root: Path, content: dict[str, Any], file: str = "annotations/instances_val.json") -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(path)


def open_coco(root: Path, content: dict[str, Any], task: str = "detection", **options: Any) -> Coco:
    save(root, content)
    if not (root / "val").exists():
        save_image(root / "val/a.png")
    source = create_source("coco", **{"task": task, "root": root, "split": "val", **options})
    assert isinstance(source, Coco)
    return source


@pytest.mark.parametrize("name", ["images/1a-photo 1.jpg", "images\\1a-photo 1.jpg", ".\\images/1a-photo 1.jpg"])
def test_label_studio_names_images_from_the_root(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / "images/1a-photo 1.jpg")
    save(
        tmp_path, coco(entry(), images=[{"id": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}]), "result.json"
    )
    source = create_source("coco", task="detection", root=tmp_path, split="val", annotations="result.json")
    assert source[0].image_id == "images/1a-photo 1.jpg"


def test_images_may_lie_next_to_the_file(tmp_path: Path) -> None:
    save_image(tmp_path / "export/deep/a.png")
    save(tmp_path, coco(entry()), "export/deep/labels.json")
    assert len(create_source("coco", task="detection", root=tmp_path, split="x", annotations="export/deep/labels.json"))


def test_cvat_writes_folders_into_the_names(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"v{i}/f.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)]
    for i in (1, 2):
        save_image(tmp_path / f"images/v{i}/f.png")
    save(tmp_path, coco(entry(), images=images))
    source = create_source("coco", task="detection", root=tmp_path, split="val")
    assert [source[i].image_id for i in (0, 1)] == ["v1/f.png", "v2/f.png"]


@pytest.mark.parametrize("root_id", [0, 2])
def test_the_root_category_of_roboflow_is_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, root_id: int
) -> None:
    categories = [
        {"id": root_id, "name": "cell", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cell"},
    ]
    with caplog.at_level(logging.INFO):
        source = open_coco(tmp_path, coco(entry(), categories=categories))
    assert source.class_names == ("cell",)
    assert source[0].labels is not None
    assert source[0].labels.tolist() == [0]
    assert caplog.messages == [
        f"instances_val.json: left out category {root_id} 'cell', which no annotation has and which only groups other "
        "categories"
    ]


def test_a_category_that_is_used_or_its_own_group_stays(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "person", "supercategory": "person"},
        {"id": 2, "name": "vehicle", "supercategory": "thing"},
        {"id": 3, "name": "car", "supercategory": "vehicle"},
    ]
    source = open_coco(tmp_path, coco(entry(category=2), categories=categories))
    assert source.class_names == ("person", "vehicle", "car")


def test_ids_may_be_texts_numbers_or_both(tmp_path: Path) -> None:
    images = [{"id": f"img_{i}", "file_name": "a.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)]
    categories = [{"id": "b", "name": "bee"}, {"id": "10", "name": "ten"}, {"id": 9, "name": "nine"}]
    annotations = [entry(i, "img_2", category) for i, category in enumerate(["9", 10, "b", 9.0])]
    source = open_coco(tmp_path, coco(*annotations, images=images, categories=categories))
    assert source.class_names == ("nine", "ten", "bee")
    assert source[1].labels is not None
    assert source[1].labels.tolist() == [0, 1, 2, 0]


def test_numbers_as_names_become_texts(tmp_path: Path) -> None:
    source = open_coco(tmp_path, coco(entry(), categories=[{"id": 1, "name": 2012}, {"id": 2, "name": 1.5}]))
    assert source.class_names == ("2012", "1.5")


@pytest.mark.parametrize(("flag", "crowd"), [("0", False), ("1", True), (0.0, False), (True, True), (None, False)])
def test_iscrowd_may_be_a_text(tmp_path: Path, flag: Any, crowd: bool) -> None:
    source = open_coco(tmp_path, coco(entry(iscrowd=flag)))
    assert source[0].crowd is not None
    assert source[0].crowd.tolist() == [crowd]


@pytest.mark.parametrize(
    "segmentation",
    [
        TRIANGLE,
        [[[4, 4], [20, 4], [4, 20]]],
        [[4, 4], [20, 4], [4, 20]],
        TRIANGLE[0],
        [["4", "4", "20", "4", "4", "20"]],
    ],
)
def test_polygons_may_be_nested_or_not_and_hold_pairs(tmp_path: Path, segmentation: Any) -> None:
    expected = open_coco(tmp_path, coco(entry(segmentation=TRIANGLE)), "segmentation")[0].mask
    mask = open_coco(tmp_path, coco(entry(segmentation=segmentation)), "segmentation")[0].mask
    assert mask is not None
    assert expected is not None
    np.testing.assert_array_equal(mask, expected)
    assert mask.sum() > 100


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [], None, "missing", ["a", 1, 2, 3], [1e400, 0, 0, float("nan")]])
def test_masks_need_no_box(tmp_path: Path, box: Any) -> None:
    annotation = entry(segmentation=TRIANGLE, bbox=box)
    if box == "missing":
        del annotation["bbox"]
    mask = open_coco(tmp_path, coco(annotation), "segmentation")[0].mask
    assert mask is not None
    assert mask.sum() > 100


@pytest.mark.parametrize("size", [(30.0, 40.0), ("30", "40"), (0, 0), (None, None)])
def test_sizes_may_be_floats_or_texts_or_unknown(tmp_path: Path, size: tuple[Any, Any]) -> None:
    images = [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}]
    runs = {"size": [30, 40], "counts": [600, 600]}
    source = open_coco(tmp_path, coco(entry(segmentation=runs), images=images), "segmentation")
    assert source[0].mask is not None
    assert source[0].mask.sum() == 600


def test_an_image_without_size_takes_that_of_its_file(tmp_path: Path) -> None:
    source = open_coco(tmp_path, coco(entry(bbox=[30, 20, 90, 90]), images=[{"id": 1, "file_name": "a.png"}]))
    assert source[0].boxes is not None
    assert source[0].boxes.tolist() == [[30, 20, 40, 30]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco(entry(iscrowd="maybe")), "'iscrowd' of annotation 1 must be 0 or 1, got maybe"),
        (coco(entry(iscrowd=2)), "'iscrowd' of annotation 1 must be 0 or 1, got 2"),
        (coco(entry(category=True)), "annotation 1 has category True, which is not listed"),
        (coco(entry(image=[1])), r"annotation 1 has image \[1\], which is not listed"),
        (coco(entry(number=None, image=3)), "annotation number 1 has image 3, which is not listed"),
        (coco(entry(bbox=None)), "bbox of annotation 1 must be four numbers"),
        (coco(entry(bbox={"x": 1})), "bbox of annotation 1 must be four numbers"),
        (coco(entry(bbox=[1, 2, 3, True])), "bbox of annotation 1 must be four numbers"),
        (coco("rubbish"), "this annotation has no 'image_id': rubbish"),  # type: ignore[arg-type]
        (coco(categories=[{"id": 1, "name": ""}]), "category 1 has the name ''; expected a text"),
        (coco(categories=[{"id": 1, "name": None}]), "category 1 has the name 'None'; expected a text"),
        (coco(categories=[{"id": 1, "name": "\ud800"}]), "category 1 has the name .*; expected a text"),
        (coco(categories=[{"id": 10**400, "name": "a"}]), "the id of a category must be a number or a text"),
        (coco(images=[{"id": 1, "file_name": "\ud800.png"}]), "the file_name of image 1 must be a path"),
        (coco(categories=[{"id": None, "name": "a"}]), "the id of a category must be a number or a text"),
        (coco(categories=[None]), "this category has no 'id': None"),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]), "the category 1 'b' is listed twice"),
        (coco(images=[{"id": [1], "file_name": "a.png"}]), "the id of an image must be a number or a text"),
        (coco(images=[{"id": 1, "file_name": 5}]), "the file_name of image 1 must be a path, got '5'"),
        (coco(images=[{"id": 1, "file_name": "a\0.png"}]), "the file_name of image 1 must be a path"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": 1e9, "width": 1e9}]), "image 1 must be pixels"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": -3, "width": 4}]), "image 1 must be pixels"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": 3.5, "width": 4}]), "image 1 must be pixels"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": float("nan"), "width": 4}]), "image 1 must be pixels"),
    ],
)
def test_mistakes_are_named_at_the_start(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_coco(tmp_path, content)
    assert str(error.value).startswith(str(tmp_path / "annotations/instances_val.json"))


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff\xfe{", '{"images": 1' + "0" * 5000 + "}", ""])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path, {})
    (tmp_path / "annotations/instances_val.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"instances_val\.json: this is not JSON \("):
        create_source("coco", task="detection", root=tmp_path, split="val")


def test_odd_boxes_and_repeated_ids_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = coco(
        entry(7),
        entry(7),
        entry(8, bbox=[1, float("nan"), 5, 5]),
        entry(9, bbox=[100, 4, 5, 5]),
        entry(10, bbox=[4, 4, -5, 5]),
        entry(11, area="large"),
        entry(12, area=-5),
    )
    with caplog.at_level(logging.INFO):
        source = open_coco(tmp_path, content)
    assert source[0].boxes is not None
    assert (len(source[0].boxes), source.dropped_boxes) == (4, 3)
    assert caplog.messages[:5] == [
        "instances_val.json: 1 annotations have an id that another one has; all are kept: annotation 7",
        "instances_val.json: 2 annotations have an 'area' that is no number from 0 up; that of the box is used: "
        "annotation 11, annotation 12",
        "Dropped 1 boxes of instances_val.json without area in 1 images: a.png",
        "Dropped 1 boxes of instances_val.json outside their image in 1 images: a.png",
        "Dropped 1 boxes of instances_val.json with NaN or infinity in 1 images: a.png",
    ]


def test_corners_and_fractions_instead_of_sizes_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_coco(tmp_path, coco(entry(bbox=[20, 15, 38, 28]), entry(2, bbox=[30, 20, 39, 29])))
    assert caplog.messages[0].startswith(
        "2 of 2 boxes of instances_val.json reach beyond their image by more than a pixel, in 1 images"
    )
    caplog.clear()
    open_coco(tmp_path, coco(entry(bbox=[0.2, 0.1, 0.3, 0.5])))
    assert caplog.messages == [
        "All 1 boxes of instances_val.json are no larger than a pixel; expected boxes in pixels, not as fractions of "
        "the image"
    ]


def test_missing_images_are_counted_at_the_start(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate("abc")]
    save_image(tmp_path / "val/b.png")
    (tmp_path / "val/b.png").rename(tmp_path / "val/b")
    (tmp_path / "val/c").mkdir()
    with pytest.raises(UserError, match=r"val: 2 of the 3 images that instances_val\.json lists are missing: a, c;"):
        open_coco(tmp_path, coco(images=images))


@pytest.mark.parametrize("name", ["../other/b.png", "..\\other\\b.png", "ABSOLUTE"])
def test_names_that_lead_out_of_the_data_set_need_a_key(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / "other/b.png")
    root = tmp_path / "data"
    save_image(root / "val/a.png")
    name = name.replace("ABSOLUTE", str(tmp_path / "other/b.png"))
    content = coco(entry(), images=[{"id": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}])
    with pytest.raises(UserError, match=r"instances_val\.json: the file name '.*b\.png' leads out of the data set"):
        open_coco(root, content)
    assert open_coco(root, content, follow_outside=True)[0].image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_annotations_of_stored_pixels_are_turned_with_the_image(tmp_path: Path, orientation: int, task: str) -> None:
    """A red rectangle in the stored pixels, which are the size that the file names."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    pixels[2:12, 5:25] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "val").mkdir()
    Image.fromarray(pixels).save(tmp_path / "val/a.png", exif=exif)
    rectangle = [[5, 2, 25, 2, 25, 12, 5, 12]]
    sample = open_coco(tmp_path, coco(entry(bbox=[5, 2, 20, 10], segmentation=rectangle)), task)[0]
    red = sample.image[:, :, 1] == 0
    assert sample.image.shape[:2] == (WIDTH, HEIGHT)
    if sample.mask is not None:
        np.testing.assert_array_equal(sample.mask == 1, red)
        return
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert sample.boxes is not None
    assert sample.annotated is not None
    assert sample.boxes.tolist() == [corners]
    assert sample.annotated.boxes.tolist() == [[*corners[:2], corners[2] - corners[0], corners[3] - corners[1]]]


def test_names_of_files_need_not_be_utf_8(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    try:
        save_image(tmp_path / "val" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    images = [{"id": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}]
    assert open_coco(tmp_path, coco(entry(), images=images))[0].image_id == name
