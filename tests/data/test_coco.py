import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mbv2kit.data.sources import create_source
from mbv2kit.data.sources.coco import Coco
from mbv2kit.data.sources.coco.outlines import draw_mask
from mbv2kit.data.table import Outline
from mbv2kit.errors import UserError

HEIGHT, WIDTH = 30, 40


def rectangle(x1: int, y1: int, x2: int, y2: int) -> list[list[float]]:
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def content() -> dict[str, Any]:
    """Three images listed out of order, categories 90 and 7; image 3 has no object."""
    images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (5, 2, 3)]
    annotations = [
        {"id": 1, "image_id": 2, "category_id": 90, "bbox": [2, 3, 10, 5], "segmentation": rectangle(2, 3, 12, 8)},
        {"id": 2, "image_id": 5, "category_id": 7, "bbox": [30, 20, 20, 20], "segmentation": rectangle(30, 20, 40, 30)},
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [5, 5, 0, 9], "segmentation": rectangle(5, 5, 5, 14)},
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 90, "name": "brush"}, {"id": 7, "name": "train"}],
    }


def write(
    root: Path, data: Any, annotations: str = "annotations/instances_val.json", folder: str = "images/val"
) -> Path:
    path = root / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in (2, 3, 5):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(root / folder / f"{number}.png")
    return root


def open_coco(root: Path, **options: Any) -> Coco:
    source = create_source("coco", **{"task": "detection", "root": root, "split": "val", **options})
    assert isinstance(source, Coco)
    return source


def test_boxes_classes_and_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = open_coco(write(tmp_path, content()))
    assert source.class_names == ("train", "brush")
    samples = [source[i] for i in range(3)]
    assert [sample.image_id for sample in samples] == ["5.png", "2.png", "3.png"]
    assert [int(sample.image[0, 0, 0]) for sample in samples] == [5, 2, 3]
    # The box that extends beyond the image is clipped, the one without width is dropped.
    assert [sample.boxes.tolist() for sample in samples if sample.boxes is not None] == [
        [[30, 20, 40, 30]],
        [[2, 3, 12, 8]],
        [],
    ]
    assert [sample.labels.tolist() for sample in samples if sample.labels is not None] == [[0], [1], []]
    assert samples[2].boxes is not None
    assert samples[2].boxes.shape == (0, 4)
    assert all(sample.mask is None for sample in samples)
    assert source.dropped_boxes == 1
    assert [record.message for record in caplog.records] == [
        "Dropped 1 boxes of instances_val.json without area in 1 images: 2.png",
        "1 of 3 boxes of instances_val.json reach beyond their image by more than a pixel, in 1 images: 5.png; they "
        "are clipped. Check the format of the boxes, and that the images are those that were annotated",
    ]


def test_skip_empty_leaves_out_images_without_objects(tmp_path: Path) -> None:
    source = open_coco(write(tmp_path, content()), skip_empty=True)
    assert [source[i].image_id for i in range(len(source))] == ["5.png", "2.png"]


def test_masks_put_the_smaller_object_on_top_and_ignore_crowds(tmp_path: Path) -> None:
    data = content()
    runs = [HEIGHT * 20, HEIGHT * 20]  # Column by column: the right half of the image.
    everything = coco_mask.encode(np.asfortranarray(np.ones((HEIGHT, WIDTH), np.uint8)))
    common = {"image_id": 2, "bbox": [0, 0, 40, 30]}
    data["annotations"] = [
        {"id": 1, **common, "category_id": 7, "segmentation": rectangle(4, 4, 8, 8)},
        {"id": 2, **common, "category_id": 90, "segmentation": rectangle(0, 0, 30, 20)},
        {"id": 3, **common, "category_id": 7, "iscrowd": 1, "segmentation": {"size": [30, 40], "counts": runs}},
        {
            "id": 4,
            **common,
            "image_id": 5,
            "category_id": 90,
            "segmentation": {"size": [30, 40], "counts": everything["counts"].decode()},
        },
    ]
    source = open_coco(write(tmp_path, data), task="segmentation")
    assert source.class_names == ("background", "train", "brush")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:, 20:] = 255
    expected[:20, :30] = 2
    expected[4:8, 4:8] = 1
    np.testing.assert_array_equal(source[1].mask, expected)
    assert source[1].boxes is None
    np.testing.assert_array_equal(source[0].mask, np.full((HEIGHT, WIDTH), 2))
    np.testing.assert_array_equal(source[2].mask, np.zeros((HEIGHT, WIDTH)))


def test_an_object_of_two_parts_is_one_object() -> None:
    rings = tuple(np.array(rectangle(x, 0, x + 4, 4)[0], dtype=np.float64) for x in (0, 10))
    mask = draw_mask([Outline(rings=rings)], np.array([3]), np.array([False]), 6, 20)
    expected = np.zeros((6, 20), np.uint8)
    expected[:4, :4] = expected[:4, 10:14] = 3
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("folder", ["images/val", "val", "images"])
def test_images_are_found_in_the_usual_places(tmp_path: Path, folder: str) -> None:
    (tmp_path / "images").mkdir()
    assert open_coco(write(tmp_path, content(), folder=folder))[0].image[0, 0, 0] == 5


def test_annotations_may_lie_next_to_the_images(tmp_path: Path) -> None:
    root = write(tmp_path, content(), "val/_annotations.coco.json", "val")
    assert len(open_coco(root, annotations="{split}/_annotations.coco.json")) == 3
    with pytest.raises(UserError, match=r"no split 'train'; splits found: val\."):
        open_coco(root, split="train", annotations="{split}/_annotations.coco.json")


def test_an_unknown_split_names_those_found(tmp_path: Path) -> None:
    write(tmp_path, content())
    (tmp_path / "annotations/instances_train.json").write_text("{}")
    with pytest.raises(UserError, match=r"no split 'test'; splits found: train, val\."):
        open_coco(tmp_path, split="test")


def test_missing_images_show_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"first image, 5\.png, is in none of[^\0]*ROOT/images/\{split\}"):
        open_coco(write(tmp_path, content(), folder="photos"))


def test_an_image_of_another_size_is_reported(tmp_path: Path) -> None:
    write(tmp_path, content())
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images/val/5.png")
    with pytest.raises(UserError, match=r"5\.png: the image is 30 x 40 pixels, but instances_val\.json says 40 x 30"):
        open_coco(tmp_path)


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    data: Any = content()
    part = data
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return dict(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "this is not JSON"),
        ([], "no list 'images'"),
        (changed(("categories",), None), "no list 'categories'"),
        (changed(("categories",), []), "'categories' is empty"),
        (changed(("categories", 0, "id"), 7), "category 7 'train' is listed twice"),
        (changed(("images",), []), "annotation 1 has image 2, which is not listed"),
        (changed(("images", 1, "id"), 5), r"image id 5 \(2\.png\) is listed twice"),
        (changed(("images", 1, "file_name"), None), "this image has no 'file_name'"),
        (changed(("images", 1, "width"), "wide"), "height and width of image 2 must be pixels"),
        (changed(("annotations", 1, "image_id"), 9), "annotation 2 has image 9, which is not listed"),
        (changed(("annotations", 1, "category_id"), 1), "annotation 2 has category 1, which is not listed"),
        (changed(("annotations", 1, "bbox"), None), "annotation 2 has no 'bbox'"),
        (changed(("annotations", 1, "bbox"), [1, 2, 3]), "bbox of annotation 2 must be four numbers"),
    ],
)
def test_an_invalid_file_is_reported_with_its_first_mistake(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_coco(write(tmp_path, data))
    assert str(error.value).startswith(str(tmp_path / "annotations/instances_val.json"))


@pytest.mark.parametrize(
    "outline",
    [
        "drawn",
        7,
        [["a", "b", "c", "d", "e", "f"]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, 5e7]],
        [[1, 2, 3, 4, 5, -5e7]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, None]],
        [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]],
        [[1, 2, 3, 4, 5, 6], {"a": 1}],
        [[-9e5, 0, 9e5, 0, 0, 9]],
        [[0, 0, 30, 30] * 20_000],
        {"size": [40, 30], "counts": [1200]},
        {"size": [30, 40], "counts": [7]},
        {"size": [30, 40], "counts": [-5, 1205]},
        {"size": [30, 40], "counts": [2**40, 1200 - 2**40]},
        {"size": [30, 40], "counts": [10**30]},
        {"size": [30, 40], "counts": [600.5, 599.5]},
        {"size": [30, 40], "counts": [float("nan"), 1200]},
        {"size": [30, 40], "counts": ["1200"]},
        {"size": [30, 40], "counts": []},
        {"size": [30, 40], "counts": ""},
        {"size": [30, 40], "counts": "rubbish!"},
        {"size": [30, 40], "counts": "ooooooooo0"},
        {"size": [30, 40], "counts": "P"},
        {"size": [30, 40], "counts": "é"},
        {"size": [30, 40], "counts": "\ud800"},
        {"size": [30, 40]},
        {"counts": [1200]},
    ],
)
def test_a_broken_outline_is_reported_at_the_start_for_segmentation_only(tmp_path: Path, outline: Any) -> None:
    write(tmp_path, changed(("annotations", 1, "segmentation"), outline))
    assert len(open_coco(tmp_path)) == 3
    with pytest.raises(UserError, match="annotation 2 has no usable 'segmentation', because") as error:
        open_coco(tmp_path, task="segmentation")
    assert str(error.value).startswith(str(tmp_path / "annotations/instances_val.json"))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("outline", [None, [], {}, [[]], [[1, 2, 3, 4]], [[1, 2]]])
def test_an_object_without_outline_is_left_out_of_the_mask_and_named(
    tmp_path: Path, outline: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_coco(write(tmp_path, changed(("annotations", 1, "segmentation"), outline)), task="segmentation")
    assert caplog.messages == [
        "instances_val.json: 1 annotations have no outline and are missing in the masks: annotation 2"
    ]
    assert source[0].mask is not None
    assert source[1].mask is not None
    assert (source[0].mask.max(), source[1].mask.max()) == (0, 2)


# Fractions, points, lines, places outside the image, and run lengths of nothing.
@pytest.mark.parametrize(
    "outline",
    [
        *(
            [[0.1, 0.1, 0.9, 0.1, 0.9, 0.8]],
            [[5, 5] * 3],
            [[1, 1, 9, 9, 17, 17, 9, 9]],
            [[3, 3, 3.2, 3, 3.2, 29, 3, 29]],
        ),
        *([[-9, 2, -2, 2, -2, 9]], rectangle(50, 2, 60, 9), {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
    ],
)
def test_an_outline_without_a_pixel_is_left_out_and_named(
    tmp_path: Path, outline: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = changed(("annotations", 1, "segmentation"), outline)
    with caplog.at_level(logging.INFO):
        source = open_coco(write(tmp_path, data), task="segmentation")
    assert "Dropped 2 outlines of instances_val.json that cover no more than a pixel in 2 images: 5.png, 2.png" in (
        caplog.messages
    )
    assert [len(source.class_ids(index)) for index in range(3)] == [1, 2, 1]
    for annotation in data["annotations"]:
        annotation["segmentation"] = outline
    with pytest.raises(
        UserError, match=r"no 'segmentation' covers more than a pixel .* expected coordinates in pixels"
    ):
        open_coco(write(tmp_path, data), task="segmentation")


# A pixel, a bow tie whose two halves cancel out, a sliver, and a ring of nothing next to a good one.
@pytest.mark.parametrize(
    "outline",
    [
        *({"size": [HEIGHT, WIDTH], "counts": [7, 1, HEIGHT * WIDTH - 8]}, [[2, 2, 22, 22, 22, 2, 2, 22]]),
        *(rectangle(3, 3, 5, 28), [[5, 5] * 3, *rectangle(3, 3, 9, 9)], rectangle(-9, -9, 99, 99)),
    ],
)
def test_an_outline_of_few_pixels_is_kept(tmp_path: Path, outline: Any, caplog: pytest.LogCaptureFixture) -> None:
    source = open_coco(write(tmp_path, changed(("annotations", 1, "segmentation"), outline)), task="segmentation")
    assert not caplog.messages
    assert any(2 in source[index].mask for index in range(3))  # type: ignore[operator]


def test_images_with_one_file_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_coco(write(tmp_path, changed(("images", 1, "file_name"), "5.png")))
    assert "several images have one file, and each lacks the objects of the others: 5.png" in caplog.text


def test_a_file_without_any_outline_is_refused_for_segmentation(tmp_path: Path) -> None:
    data = content()
    for annotation in data["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(UserError, match=r"annotation 1 has no usable 'segmentation', nor has any other.*detection"):
        open_coco(write(tmp_path, data), task="segmentation")


@pytest.mark.parametrize(("split", "images", "boxes", "empty"), [("train2017", 128, 929, 2), ("val2017", 64, 461, 0)])
def test_coco_mini_counts(shared_data: Path, split: str, images: int, boxes: int, empty: int) -> None:
    source = open_coco(shared_data / "coco_mini", split=split)
    found = [source._table.boxes(i) for i in range(len(source))]
    assert len(source) == images
    assert sum(map(len, found)) == boxes
    assert sum(len(b) == 0 for b in found) == empty
    assert source.dropped_boxes == 0
    assert (source.class_names[0], source.class_names[-1]) == ("person", "toothbrush")
    assert len(source.class_names) == 80


def test_coco_mini_masks_equal_those_of_cocos_own_tools(shared_data: Path) -> None:
    root, pattern = shared_data / "coco_mini", "annotations/instances_{split}_with_crowd.json"
    source = open_coco(root, task="segmentation", split="train2017", annotations=pattern)
    theirs = COCO(root / pattern.replace("{split}", "train2017"))
    ids = {image["file_name"]: image["id"] for image in theirs.dataset["images"]}
    categories = sorted(theirs.cats)
    with_crowd = 0
    for index in range(0, len(source), 4):
        sample = source[index]
        mask = sample.mask
        assert mask is not None
        records = theirs.imgToAnns[ids[sample.image_id]]
        objects = [r for r in records if not r["iscrowd"]]
        drawn = {r["id"]: theirs.annToMask(r).astype(bool) for r in records}
        covered = np.zeros(mask.shape, bool)
        # Each object owns the pixels that no smaller one covers.
        for record in sorted(objects, key=lambda r: (int(drawn[r["id"]].sum()), -r["id"])):
            own = drawn[record["id"]] & ~covered
            rivals = [r for r in objects if drawn[r["id"]].sum() == drawn[record["id"]].sum()]
            if len(rivals) == 1:
                assert (mask[own] == categories.index(record["category_id"]) + 1).all()
            covered |= own
        crowd = np.any([drawn[r["id"]] for r in records if r["iscrowd"]] + [np.zeros(mask.shape, bool)], axis=0)
        with_crowd += int(crowd.any())
        assert (mask[crowd & ~covered] == 255).all()
        assert (mask[~crowd & ~covered] == 0).all()
    assert with_crowd > 0


def test_coco_mini_with_crowds_flags_ten_boxes(shared_data: Path) -> None:
    source = open_coco(
        shared_data / "coco_mini", split="train2017", annotations="annotations/instances_{split}_with_crowd.json"
    )
    assert sum(len(source._table.boxes(i)) for i in range(len(source))) == 939
    assert sum(int(source._table.crowd(i).sum()) for i in range(len(source))) == 10
