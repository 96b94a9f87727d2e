import json
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.colors import palette
from mbv2kit.imaging.draw import DRAW_MIN_SCORE, annotate, annotate_together
from mbv2kit.imaging.encode import encode_jpeg
from mbv2kit.inference.results import MIN_SCORE, Result
from mbv2kit.structures import BoxClasses, Classification, Detections, Prediction, Segmentation

NAMES: dict[str, tuple[str, ...]] = {
    "classification": ("cat", "dog", "owl"),
    "detection": ("cell", "worm"),
    "segmentation": ("background", "road", "road"),
}
CLASSES = Classification(np.array([2, 0, 1]), np.array([0.7, 0.2, 0.1], dtype=np.float32))
OBJECTS = Detections(
    np.array([[1, 2, 30, 20.128], [0, 0, 40, 20], [5, 5, 6, 6], [3, 3, 9, 9]], dtype=np.float32),
    np.array([1, 0, 1, 0]),
    np.array([0.9, 0.5, 0.05, 0.04], dtype=np.float32),
)
MASK = np.zeros((20, 40), dtype=np.uint8)
MASK[4:10, 10:30] = 1
MASK[15:, 35:] = 2
REGIONS = Segmentation(MASK)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)


def result(**predictions: Prediction) -> Result:
    return Result(path=None, size=(20, 40), predictions=predictions, class_names=NAMES, pixels=PIXELS)


# Values.


def test_a_classification_has_ranked_classes() -> None:
    found = result(classification=CLASSES)
    assert found.task == "classification"
    assert found.labels == ["owl", "cat", "dog"]
    assert found.class_ids.tolist() == [2, 0, 1]
    assert found.scores.tolist() == CLASSES.scores.tolist()
    assert found.top(2) == [("owl", float(np.float32(0.7))), ("cat", float(np.float32(0.2)))]
    assert found.top() == found.top(3) == found.top(99)
    assert found.top(0) == []


def test_a_detection_has_the_objects_above_the_score() -> None:
    found = result(detection=OBJECTS)
    assert found.labels == ["worm", "cell", "worm"]
    assert found.class_ids.tolist() == [1, 0, 1]
    assert found.scores.tolist() == OBJECTS.scores[:3].tolist()
    np.testing.assert_array_equal(found.boxes, OBJECTS.boxes[:3])
    assert replace(found, min_score=0.6).labels == ["worm"]
    assert replace(found, min_score=0.0).labels == ["worm", "cell", "worm", "cell"]
    assert replace(found, min_score=1.0).boxes.shape == (0, 4)


def test_a_segmentation_has_a_mask_and_the_share_of_each_name() -> None:
    found = result(segmentation=REGIONS)
    np.testing.assert_array_equal(found.mask, MASK)
    road = np.isin(MASK, (1, 2)).mean()
    assert found.fractions == {"background": pytest.approx(1 - road), "road": pytest.approx(road)}


def ask(found: Result, name: str) -> Any:
    value = getattr(found, name)
    return value("x.png") if name == "save_mask" else value()


@pytest.mark.parametrize(
    ("prediction", "names", "message"),
    [
        ({"classification": CLASSES}, ["boxes", "mask", "fractions", "save_mask"], "classification .* it has top()"),
        ({"detection": OBJECTS}, ["mask", "fractions", "save_mask", "top"], "detection .* it has boxes"),
        ({"segmentation": REGIONS}, ["boxes", "labels", "scores", "class_ids", "top"], "segmentation .* it has mask"),
    ],
)
def test_what_a_task_lacks_is_an_attribute_error(
    prediction: dict[str, Prediction], names: list[str], message: str
) -> None:
    found = result(**prediction)
    for name in names:
        with pytest.raises(AttributeError, match=message):
            ask(found, name)
    assert not hasattr(found, names[1])


def test_a_model_of_several_tasks_has_a_result_for_each() -> None:
    found = result(classification=CLASSES, detection=OBJECTS)
    assert found["classification"].top(1) == [("owl", float(np.float32(0.7)))]
    assert found["detection"].labels == ["worm", "cell", "worm"]
    for name in ("task", "labels", "scores", "class_ids"):
        with pytest.raises(AttributeError, match=rf'classification and detection; write result\["class.*"\]\.{name}'):
            getattr(found, name)
    with pytest.raises(AttributeError, match="classification and detection"):
        found.to_supervision()
    with pytest.raises(AttributeError, match=r"of classification and detection has no mask; it has top.*; boxes"):
        found.mask  # noqa: B018
    with pytest.raises(UserError, match="The model does classification and detection, not segmentation"):
        found["segmentation"]
    # A model of one task has the same form.
    assert found["detection"]["detection"].labels == ["worm", "cell", "worm"]


def test_a_property_of_one_task_needs_no_name_of_it(tmp_path: Path) -> None:
    found = result(segmentation=REGIONS, detection=OBJECTS, classification=CLASSES)
    np.testing.assert_array_equal(found.boxes, OBJECTS.boxes[:3])
    assert found.mask is MASK
    assert found.fractions == found["segmentation"].fractions
    assert found.top(2) == found["classification"].top(2)
    assert (
        found.save_mask(tmp_path / "a.png").read_bytes()
        == found["segmentation"].save_mask(tmp_path / "b.png").read_bytes()
    )
    # The task of the message has the property.
    with pytest.raises(AttributeError, match=r'write result\["detection"\]\.labels'):
        found.labels  # noqa: B018
    assert result(segmentation=REGIONS, detection=OBJECTS).labels == ["worm", "cell", "worm"]
    assert result(segmentation=REGIONS, classification=CLASSES).labels == ["owl", "cat", "dog"]


def test_a_result_with_an_error_says_it_wherever_it_is_asked() -> None:
    failed = Result(path=Path("a.jpg"), size=(0, 0), predictions={}, class_names=NAMES, error="a.jpg: it is empty.")
    assert failed.to_dict() == {"image": "a.jpg", "error": "a.jpg: it is empty."}
    assert repr(failed) == "Result(a.jpg: it is empty.)"
    assert failed._repr_jpeg_() is None
    for name in ("boxes", "labels", "mask", "task"):
        with pytest.raises(UserError, match=r"a\.jpg: it is empty\."):
            getattr(failed, name)
    with pytest.raises(UserError, match="it is empty"):
        failed["detection"]
    with pytest.raises(UserError, match="it is empty"):
        failed.plot()


# Lines of JSON.


def test_the_line_of_each_task() -> None:
    common = {"image": None, "width": 40, "height": 20}
    classes = [
        {"class_id": 2, "label": "owl", "score": 0.7},
        {"class_id": 0, "label": "cat", "score": 0.2},
        {"class_id": 1, "label": "dog", "score": 0.1},
    ]
    boxes = [
        {"class_id": 1, "label": "worm", "score": 0.9, "box": [1.0, 2.0, 30.0, 20.13]},
        {"class_id": 0, "label": "cell", "score": 0.5, "box": [0.0, 0.0, 40.0, 20.0]},
        {"class_id": 1, "label": "worm", "score": 0.05, "box": [5.0, 5.0, 6.0, 6.0]},
    ]
    fractions = {"background": 0.81875, "road": 0.18125}
    lines = [
        (result(classification=CLASSES), {**common, "task": "classification", "classes": classes}),
        (result(detection=OBJECTS), {**common, "task": "detection", "boxes": boxes}),
        (result(segmentation=REGIONS), {**common, "task": "segmentation", "fractions": fractions}),
    ]
    for found, expected in lines:
        assert found.to_dict() == expected
        assert list(found.to_dict()) == list(expected)
        assert json.loads(json.dumps(found.to_dict())) == expected


def test_several_tasks_share_a_line() -> None:
    found = result(classification=CLASSES, detection=OBJECTS, segmentation=REGIONS)
    line = found.to_dict("masks/b.png", "images/b.jpg")
    assert list(line) == ["image", "width", "height", "tasks", "drawing", "mask", "classes", "boxes", "fractions"]
    assert line["tasks"] == ["classification", "detection", "segmentation"]
    for task in line["tasks"]:
        alone = found[task].to_dict("masks/b.png", "images/b.jpg")
        assert alone.pop("task") == task
        assert alone.items() <= line.items()


def test_the_line_names_the_image_and_the_mask() -> None:
    found = replace(result(segmentation=REGIONS), path=Path("a") / "b.png", pixels=None)
    line = found.to_dict(mask="masks/b.png")
    assert list(line) == ["image", "width", "height", "task", "mask", "fractions"]
    assert (line["image"], line["mask"]) == ("a/b.png", "masks/b.png")


def test_the_thresholds_are_those_of_the_command_line(root: Path) -> None:
    config = OmegaConf.load(root / "conf" / "infer.yaml")
    assert (config.min_score, config.draw_min_score) == (MIN_SCORE, DRAW_MIN_SCORE)


# Drawings.


@pytest.mark.parametrize(
    "predictions", [{"classification": CLASSES}, {"detection": OBJECTS}, {"segmentation": REGIONS}]
)
def test_the_drawing_is_that_of_annotate(predictions: dict[str, Prediction]) -> None:
    ((task, prediction),) = predictions.items()
    found = result(**predictions)
    before = PIXELS.copy()
    np.testing.assert_array_equal(found.plot(), annotate(PIXELS, prediction, NAMES[task], DRAW_MIN_SCORE))
    np.testing.assert_array_equal(found.plot(0.6), annotate(PIXELS, prediction, NAMES[task], 0.6))
    np.testing.assert_array_equal(PIXELS, before)


def test_several_tasks_share_a_drawing(tmp_path: Path) -> None:
    found = result(classification=CLASSES, detection=OBJECTS, segmentation=REGIONS)
    drawn = [(prediction, NAMES[task]) for task, prediction in found.predictions.items()]
    np.testing.assert_array_equal(found.plot(), annotate_together(PIXELS, drawn, DRAW_MIN_SCORE))
    np.testing.assert_array_equal(found.plot(0.6), annotate_together(PIXELS, drawn, 0.6))
    with PillowImage.open(found.save(tmp_path / "a.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), found.plot())
    np.testing.assert_array_equal(found["detection"].plot(), result(detection=OBJECTS).plot())


def test_a_drawing_reads_its_file_anew(tmp_path: Path) -> None:
    PillowImage.fromarray(PIXELS).save(tmp_path / "a.png")
    from_file = replace(result(detection=OBJECTS), path=tmp_path / "a.png", pixels=None)
    np.testing.assert_array_equal(from_file.image, PIXELS)
    np.testing.assert_array_equal(from_file.plot(), result(detection=OBJECTS).plot())


@pytest.mark.parametrize(("name", "exact"), [("a.png", True), ("a.bmp", True), ("a.jpg", False), ("A.JPEG", False)])
def test_a_drawing_is_saved_in_the_format_of_the_suffix(tmp_path: Path, name: str, exact: bool) -> None:
    found = result(segmentation=REGIONS)
    assert found.save(str(tmp_path / "new" / name)) == tmp_path / "new" / name
    with PillowImage.open(tmp_path / "new" / name) as image:
        assert image.format == {"png": "PNG", "bmp": "BMP"}.get(name[2:], "JPEG")
        difference = np.abs(np.asarray(image, dtype=int) - found.plot())
    assert difference.max() == 0 if exact else difference.mean() < 5


def test_a_drawing_that_cannot_be_saved_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    found = result(detection=OBJECTS)
    with pytest.raises(UserError, match=r"drawing has no suffix of an image format.* such as result\.jpg"):
        found.save(tmp_path / "drawing")
    with pytest.raises(UserError, match="no suffix of an image"):
        found.save("")
    with pytest.raises(UserError, match=r"a\.txt has no suffix of an image"):
        found.save(tmp_path / "a.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written \(File exists\); name another folder"):
        found.save(tmp_path / "file" / "a.jpg")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"a\.png cannot be written \(Is a directory\)"):
        found.save(tmp_path / "a.png")


def test_a_saved_mask_holds_class_ids_and_colors(tmp_path: Path) -> None:
    found = result(segmentation=REGIONS)
    assert found.save_mask(tmp_path / "new" / "mask.png") == tmp_path / "new" / "mask.png"
    with PillowImage.open(tmp_path / "new" / "mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), MASK)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette(NAMES["segmentation"])[MASK])


def test_a_notebook_shows_the_drawing() -> None:
    data = result(detection=OBJECTS)._repr_jpeg_()
    assert data is not None
    with PillowImage.open(BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert (image.height, image.width) == result(detection=OBJECTS).plot().shape[:2]
    both = result(classification=CLASSES, detection=OBJECTS)
    assert both._repr_jpeg_() == encode_jpeg(both.plot())


@pytest.mark.parametrize(
    ("predictions", "text"),
    [
        ({"classification": CLASSES}, "Result(array, 40 x 20: owl 0.70, cat 0.20, dog 0.10)"),
        ({"detection": OBJECTS}, "Result(array, 40 x 20: 2 worm, 1 cell)"),
        ({"segmentation": REGIONS}, "Result(array, 40 x 20: background 81.9%, road 18.1%)"),
        (
            {"classification": CLASSES, "detection": OBJECTS},
            "Result(array, 40 x 20: owl 0.70, cat 0.20, dog 0.10; 2 worm, 1 cell)",
        ),
    ],
)
def test_a_result_says_what_was_found(predictions: dict[str, Prediction], text: str) -> None:
    assert repr(result(**predictions)) == text


def test_a_result_without_objects_says_so() -> None:
    assert repr(replace(result(detection=OBJECTS), min_score=1.0)) == "Result(array, 40 x 20: no objects)"


# The package supervision.


class Recorded:
    """Holds the arguments that it was made with."""

    def __init__(self, **arguments: Any) -> None:
        self.__dict__.update(arguments)


@pytest.fixture
def supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package where it is installed; a stand-in that takes what its classes take where it is not."""
    try:
        import supervision  # noqa: F401
    except ModuleNotFoundError:
        stand_in = ModuleType("supervision")
        stand_in.Detections = stand_in.Classifications = Recorded  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "supervision", stand_in)


@pytest.mark.usefixtures("supervision")
def test_objects_in_the_form_of_supervision() -> None:
    found: Any = result(detection=OBJECTS).to_supervision()
    np.testing.assert_array_equal(found.xyxy, OBJECTS.boxes[:3])
    np.testing.assert_array_equal(found.confidence, OBJECTS.scores[:3])
    np.testing.assert_array_equal(found.class_id, [1, 0, 1])
    assert found.data["class_name"].tolist() == ["worm", "cell", "worm"]
    assert "then_class_name" not in found.data
    classes = BoxClasses(np.array([1, 0, 0, 0]), np.ones(4, dtype=np.float32))
    chained = result(detection=replace(OBJECTS, then=classes))
    then: Any = replace(chained, then_class_names=("flat", "round")).to_supervision()
    assert then.data["then_class_name"].tolist() == ["round", "flat", "flat"]
    none: Any = replace(result(detection=OBJECTS), min_score=1.0).to_supervision()
    assert none.xyxy.shape == (0, 4)


@pytest.mark.usefixtures("supervision")
def test_classes_in_the_form_of_supervision() -> None:
    found: Any = result(classification=CLASSES).to_supervision()
    assert found.class_id.tolist() == [2, 0, 1]
    assert found.confidence.tolist() == CLASSES.scores.tolist()


@pytest.mark.usefixtures("supervision")
def test_regions_in_the_form_of_supervision() -> None:
    found: Any = result(segmentation=REGIONS).to_supervision()
    assert found.class_id.tolist() == [1, 2]
    assert found.data["class_name"].tolist() == ["road", "road"]
    np.testing.assert_array_equal(found.mask, [MASK == 1, MASK == 2])
    assert found.xyxy.tolist() == [[10, 4, 30, 10], [35, 15, 40, 20]]
    nothing: Any = result(segmentation=Segmentation(np.zeros((20, 40), dtype=np.uint8))).to_supervision()
    assert nothing.xyxy.shape == (0, 4)
    assert nothing.mask.shape == (0, 20, 40)


def test_without_supervision_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"needs the package supervision .*: pip install supervision"):
        result(detection=OBJECTS).to_supervision()
