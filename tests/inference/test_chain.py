"""A detector whose boxes a second model classifies, from Python and from the command line."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image as PillowImage

import mbv2kit
from mbv2kit.data.cut import cut_objects
from mbv2kit.data.sources.shapes import Shapes
from mbv2kit.errors import UserError
from mbv2kit.imaging.encode import encode_jpeg
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference import inputs, results
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.run import infer
from mbv2kit.inference.stages import Stages
from mbv2kit.models.session import Session
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import BoxClasses, Boxes, Detections, Prediction
from tests.inference.networks import save_detector, save_shares

# Corners in a photo of 640 x 640 pixels, and what is there: red, green and blue have these shares.
PATCHES: dict[tuple[int, int, int, int], tuple[int, int, int]] = {
    (100, 100, 120, 120): (200, 40, 10),
    (300, 220, 340, 240): (20, 160, 20),
    (600, 620, 640, 640): (5, 5, 90),
}
SCORES = (0.9, 0.5, 0.1)
# The detector's input shows the photo at a tenth of its size.
ROWS = [
    (*(side / 10 for side in box), score, i % 2) for i, (box, score) in enumerate(zip(PATCHES, SCORES, strict=True))
]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.full((640, 640, 3), 90, dtype=np.uint8)
    for (x1, y1, x2, y2), color in PATCHES.items():
        pixels[y1:y2, x1:x2] = color
    path = tmp_path / "photos" / "plate.png"
    path.parent.mkdir()
    PillowImage.fromarray(pixels).save(path)
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return save_detector(tmp_path / "detector", ROWS)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return save_shares(tmp_path / "classifier")


@pytest.fixture
def config(root: Path, tmp_path: Path, detector: Path, classifier: Path) -> DictConfig:
    """What conf/infer.yaml holds, with both models and an output folder."""
    config = OmegaConf.load(root / "conf" / "infer.yaml")
    assert isinstance(config, DictConfig)
    config.tta = {"name": "none", "scales": None, "flip": True}
    config.checkpoint, config.then = str(detector), str(classifier)
    config.output, config.threads, config.runtime = str(tmp_path / "out"), 1, "onnxruntime"
    return config


def lines(config: DictConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.output, "predictions.jsonl").read_text().splitlines()]


# The command.


def test_each_box_has_the_class_of_its_cut_out_at_full_size(photo: Path, config: DictConfig) -> None:
    """A patch is two pixels wide in the detector's input; the shares are those of its own pixels alone."""
    assert infer(config, [str(photo)]) == 0
    (line,) = lines(config)
    label = {"red": 0, "green": 1, "blue": 2}
    boxes = [
        {
            "class_id": i % 2,
            "label": ("cell", "worm")[i % 2],
            "score": score,
            "box": list(map(float, box)),
            "then": {"class_id": label[name], "label": name, "score": share},
        }
        for i, (box, score, name, share) in enumerate(
            zip(PATCHES, SCORES, ("red", "green", "blue"), (0.8, 0.8, 0.9), strict=True)
        )
    ]
    assert line == {
        "image": str(photo),
        "width": 640,
        "height": 640,
        "task": "detection",
        "drawing": "images/plate.jpg",
        "boxes": boxes,
    }
    assert list(line["boxes"][0]) == ["class_id", "label", "score", "box", "then"]


def test_the_drawing_has_both_classes(photo: Path, config: DictConfig, detector: Path, classifier: Path) -> None:
    infer(config, [str(photo)])
    result = mbv2kit.load(detector, threads=1).then(mbv2kit.load(classifier, threads=1))(photo)
    drawing = Path(config.output, "images", "plate.jpg").read_bytes()
    assert drawing == encode_jpeg(result.plot())
    assert drawing != encode_jpeg(mbv2kit.load(detector, threads=1)(photo).plot())


def test_boxes_of_a_low_score_are_not_classified(photo: Path, config: DictConfig) -> None:
    config.min_score = 0.5
    infer(config, [str(photo)])
    assert [box["then"]["label"] for box in lines(config)[0]["boxes"]] == ["red", "green"]


def test_a_margin_adds_what_is_around_the_box(photo: Path, config: DictConfig) -> None:
    config.then_margin = 0.5
    infer(config, [str(photo)])
    red = lines(config)[0]["boxes"][0]["then"]
    # A quarter of the cut-out is red (200, 40, 10), the rest gray (90, 90, 90).
    assert red["score"] == pytest.approx((200 + 3 * 90) / (250 + 3 * 270), abs=0.01)


@pytest.mark.parametrize("draws", [True, False])
def test_an_image_is_decoded_once(
    photo: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, draws: bool
) -> None:
    decoded: list[Path] = []

    def counting(path: Path) -> NDArray[np.uint8]:
        decoded.append(path)
        return decode(path)

    for module in (inputs, results):
        monkeypatch.setattr(module, "decode", counting)
    monkeypatch.delattr(inputs, "preprocess_file")
    config.save_images = draws
    infer(config, [str(photo)])
    assert decoded == [photo]


def test_the_console_names_both_models(photo: Path, config: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    infer(config, [str(photo)])
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith(("Model:", "Then:"))] == [
        f"Model: {config.checkpoint}",
        f"Then: {config.then}",
    ]
    assert "" not in told


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"checkpoint": "CLASSIFIER"},
            "then=CLASSIFIER: A second model .* the first one does classification; load",
        ),
        ({"then": "DETECTOR"}, "then=DETECTOR: A second model must classify, but this one does detection; load one"),
        ({"then": "nowhere"}, "then=nowhere: .*nowhere"),
        ({"then": None, "then_margin": 0.1}, r"then_margin=0\.1 is for the model of then=; name one, or leave it out"),
        ({"then_margin": -1.0}, r"then=CLASSIFIER: margin must be a number of at least 0, got -1\.0"),
    ],
)
def test_models_that_make_no_chain_are_refused_in_a_sentence(
    photo: Path, config: DictConfig, keys: dict[str, Any], message: str
) -> None:
    names = {"CLASSIFIER": str(config.then), "DETECTOR": str(config.checkpoint)}
    for key, value in keys.items():
        config[key] = names.get(value, value)
    for name, path in names.items():
        message = message.replace(name, path)
    with pytest.raises(UserError, match=message) as raised:
        infer(config, [str(photo)])
    assert "\n" not in str(raised.value).partition("; give ")[0]
    assert not Path(config.output).exists()


def test_a_chain_needs_the_lines_of_boxes_and_no_budget(tmp_path: Path, photo: Path, config: DictConfig) -> None:
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={"classification": {"name": "classifier"}, "detection": {"name": "ssdlite"}},
        class_names={"classification": ("a", "b"), "detection": ("a", "b")},
        input=Preprocess((64, 64)),
    )
    VisionModel(spec).save(tmp_path / "both")
    config.checkpoint, config.runtime, config.task = str(tmp_path / "both"), "auto", "classification"
    with pytest.raises(UserError, match=r"then=.* classifies boxes, and task=classification writes none"):
        infer(config, [str(photo)])
    config.task, config.memory_budget = "detection", "10MB"
    with pytest.raises(UserError, match="memory_budget plans the memory of one model; leave out"):
        infer(config, [str(photo)])
    config.task = config.memory_budget = None
    config.min_score = 0.0
    assert infer(config, [str(photo)]) == 0
    (line,) = lines(config)
    assert line["tasks"] == ["classification", "detection"]
    assert line["boxes"]
    assert all("then" in box for box in line["boxes"])


# From Python.


def test_a_result_has_the_classes_of_its_boxes(photo: Path, detector: Path, classifier: Path) -> None:
    predictor = mbv2kit.load(detector, threads=1).then(mbv2kit.load(classifier, threads=1))
    result = predictor(photo)
    assert result.labels == ["cell", "worm", "cell"]
    assert result.then_labels == ["red", "green", "blue"]
    assert result.then_class_ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(result.then_scores, [0.8, 0.8, 0.9], atol=1e-6)
    assert repr(result).endswith("640 x 640: 1 cell (red), 1 worm (green), 1 cell (blue))")
    assert result["detection"].then_labels == result.then_labels
    assert predictor(photo, min_score=0.6).then_labels == ["red"]
    assert predictor(photo, min_score=1.0).then_labels == []
    assert predictor(decode(photo)).then_labels == result.then_labels
    assert result.pixels is None, "many results would fill the memory"
    assert repr(predictor).count("Predictor(") == 2


def test_a_result_of_one_model_has_no_such_classes(photo: Path, detector: Path, classifier: Path) -> None:
    alone = mbv2kit.load(detector, threads=1)
    chained = alone.then(mbv2kit.load(classifier, threads=1))
    for predictor, message in ((alone, "no second model classified them"), (mbv2kit.load(classifier), "has no then_")):
        result = predictor(photo)
        for name in ("then_labels", "then_scores", "then_class_ids"):
            with pytest.raises(AttributeError, match=message):
                getattr(result, name)
        assert "then" not in json.dumps(result.to_dict())
    with pytest.raises(UserError, match="has a second model already"):
        chained.then(mbv2kit.load(classifier))
    with pytest.raises(UserError, match=r"A second model is a predictor such as .* got str"):
        alone.then("classifier")  # type: ignore[arg-type]


def test_a_jpeg_is_cut_at_full_size(tmp_path: Path, photo: Path, detector: Path, classifier: Path) -> None:
    PillowImage.open(photo).save(tmp_path / "plate.jpg", quality=100, subsampling=0)
    result = mbv2kit.load(detector, threads=1).then(mbv2kit.load(classifier, threads=1))(tmp_path / "plate.jpg")
    assert result.then_labels == ["red", "green", "blue"]
    np.testing.assert_allclose(result.then_scores, [0.8, 0.8, 0.9], atol=0.01)


# Against cut-objects, on drawn shapes.


class Known(Predictor):
    """Finds the boxes of images that it knows by their sizes."""

    def __init__(self, boxes: dict[tuple[int, int], Boxes], threads: int = 1) -> None:
        spec = ModelSpec(backbone={}, heads={}, class_names={"detection": ("shape",)}, input=Preprocess((8, 8)))
        super().__init__(spec, lambda _: lambda images: {"count": np.zeros(len(images))}, threads=threads)
        self._boxes = boxes

    def postprocess(self, outputs: Outputs, placements: Sequence[Placement]) -> list[dict[str, Prediction]]:
        return [{"detection": _detections(self._boxes[placement.image])} for placement in placements]


def _detections(boxes: Boxes) -> Detections:
    return Detections(boxes, np.zeros(len(boxes), np.int64), np.linspace(0.9, 0.8, len(boxes), dtype=np.float32))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_boxes_have_the_classes_of_the_objects_that_cut_objects_writes(
    tmp_path: Path, classifier: Path, margin: float, batch_size: int
) -> None:
    sizes = range(80, 140, 10)
    sources = {str(size): Shapes(task="detection", split="val", size=size, val_count=1, seed=size) for size in sizes}
    cut_objects(sources, tmp_path / "cut", margin)
    boxes = {}
    for name, source in sources.items():
        PillowImage.fromarray(source[0].image).save(tmp_path / f"{name}.png")
        ((size, boxes_of_image),) = source.objects()
        boxes[size] = boxes_of_image
    predictor = mbv2kit.load(classifier, threads=1)
    chained = Known(boxes).then(predictor, margin=margin)
    classes = set()
    results = chained([tmp_path / f"{name}.png" for name in sources], batch_size=batch_size)
    for name, result in zip(sources, results, strict=True):
        # Files are numbered in the order of the boxes, and sorted by it whatever their class folder.
        files = sorted((tmp_path / "cut" / name).rglob("*.png"), key=lambda path: path.name)
        cut = list(predictor(files))
        assert len(cut) == len(result.boxes) > 0
        assert result.then_labels == [each.labels[0] for each in cut]
        np.testing.assert_allclose(result.then_scores, [each.scores[0] for each in cut], atol=1e-6)
        classes |= set(result.then_labels)
    assert len(classes) > 1


# Batches and errors.


class Bright(Predictor):
    """Scores a cut-out with its brightness, which is no number from 250 up; remembers its batches."""

    def __init__(self, batch: int | None = None, threads: int = 1) -> None:
        self.batches: list[int] = []
        self.sessions: list[int] = []
        spec = ModelSpec(
            backbone={}, heads={}, class_names={"classification": ("dark", "bright")}, input=Preprocess((4, 4))
        )
        super().__init__(spec, self._open, batch=batch, threads=threads)

    def _open(self, threads: int) -> Session:
        self.sessions.append(threads)
        return self.run

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        self.batches.append(len(images))
        mean = images.mean(axis=(1, 2, 3), dtype=np.float32)
        share = np.where(mean < 250, mean / 255, np.nan)
        return {"probabilities": np.stack([1 - share, share], axis=1)}


def plain(side: int, value: int) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, dtype=np.uint8)


def grid(count: int) -> Boxes:
    """Boxes of a pixel each, next to each other."""
    left = np.arange(count, dtype=np.float32)
    return np.stack([left, left, left + 1, left + 1], axis=1)


@pytest.mark.parametrize(("batch", "batches"), [(None, [16, 16, 8]), (20, [20, 20]), (3, [3] * 14)])
def test_boxes_of_several_images_share_batches(batch: int | None, batches: list[int]) -> None:
    classifier = Bright(batch)
    boxes = {(40, 40): grid(25), (41, 41): grid(0), (42, 42): grid(15)}
    chained = Known(boxes).then(classifier)
    values = {40: 51, 41: 0, 42: 204}
    results = chained.predict([plain(side, value) for side, value in values.items()])
    assert classifier.batches == batches
    assert [result.then_labels for result in results] == [["dark"] * 25, [], ["bright"] * 15]
    np.testing.assert_allclose(np.concatenate([result.then_scores for result in results]), 0.8, atol=1e-6)


def test_a_box_without_numbers_costs_its_image_the_prediction_and_no_other(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("white.png", "none.png", "gray.png")]
    PillowImage.fromarray(plain(40, 255)).save(paths[0])
    PillowImage.fromarray(plain(41, 51)).save(paths[2])
    chained = Known({(40, 40): grid(2), (41, 41): grid(2)}).then(Bright())
    white, missing, gray = chained.predict(paths)
    assert white.error is not None
    assert white.error.startswith(f"{paths[0]}: the network's outputs are not numbers")
    assert missing.error == f"{paths[1]}: there is no such file."
    assert gray.then_labels == ["dark", "dark"]


def test_as_many_classes_as_boxes() -> None:
    classes = BoxClasses(np.zeros(2, np.int64), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="3 boxes need as many classes of a second model, got"):
        replace(_detections(grid(3)), then=classes)


def test_the_detector_alone_is_as_it_was() -> None:
    detector = Known({(40, 40): grid(2)})
    detector.then(Bright())
    assert detector.predict([plain(40, 51)])[0].then_class_names == ()


def test_the_time_of_both_models_is_added_up() -> None:
    stages = Stages()
    Known({(40, 40): grid(2)}).then(Bright()).predict([plain(40, 51)], stages=stages)
    assert all(stages.seconds[stage] > 0 for stage in ("reading", "network", "postprocessing"))


@pytest.mark.parametrize("threads", [1, 2])
def test_several_images_are_processed_by_copies_of_both_models(photo: Path, detector: Path, threads: int) -> None:
    classifier = Bright(threads=threads)
    chained = mbv2kit.load(detector, runtime="onnxruntime", threads=threads).then(classifier)
    labels = [result.then_labels for result in chained([photo] * 3)]
    assert labels == [["dark", "dark", "dark"]] * 3
    assert classifier.sessions == ([1] if threads == 1 else [2, 1, 1])
