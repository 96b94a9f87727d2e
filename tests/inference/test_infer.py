import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.imaging.colors import palette
from mbv2kit.imaging.encode import encode_jpeg
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference import run
from mbv2kit.inference.loading import Loaded, Request
from mbv2kit.inference.output_folder import MARKER
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.records import describe
from mbv2kit.inference.resuming import JOB
from mbv2kit.inference.run import infer
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Classification, Detections, Prediction, Segmentation, Task

EVERYTHING: tuple[Task, ...] = ("classification", "detection", "segmentation")


class FakePredictor(Predictor):
    """Predicts the image's mean, its whole area and its left half."""

    def __init__(self, *tasks: Task) -> None:
        names: dict[str, tuple[str, ...]] = {
            "classification": tuple(f"kind {i}" for i in range(7)),
            "detection": ("cat", "dog"),
            "segmentation": ("background", "cat", "cat"),
        }
        class_names: dict[str, tuple[str, ...]] = {task: names[task] for task in tasks}
        spec = ModelSpec(backbone={}, heads={}, class_names=class_names, input=Preprocess((8, 8)))
        super().__init__(spec, lambda _: self.run)

    def copy(self, threads: int | None = None) -> "FakePredictor":
        return self

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        return {"mean": images.mean(axis=(1, 2, 3)) / 255}

    def postprocess(self, outputs: Outputs, placements: Sequence[Placement]) -> list[dict[str, Prediction]]:
        return [
            {head: _outputs(task, mean, *placement.image) for head, task in self.spec.tasks.items()}
            for mean, placement in zip(outputs["mean"], placements, strict=True)
        ]


def _outputs(task: Task, mean: float, height: int, width: int) -> Prediction:
    if task == "classification":
        scores = np.array([mean, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02], dtype=np.float32)
        return Classification(np.arange(7)[::-1], scores)
    if task == "detection":
        boxes = np.array([[0, 0, width, height], [1 / 3, 0, 2, 2], [0, 0, 1, 1]], dtype=np.float32)
        return Detections(boxes, np.array([1, 0, 0]), np.array([1 / 3, 0.2, 0.01], dtype=np.float32))
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : width // 2] = 1
    mask[:, : width // 4] = 2
    return Segmentation(mask)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two images of one name and a third that is none."""
    folder = tmp_path / "photos"
    for name, value in {"a/cat.png": 51, "b/cat.png": 102}.items():
        (folder / name).parent.mkdir(parents=True)
        PillowImage.new("RGB", (40, 20), (value,) * 3).save(folder / name)
    (folder / "c.jpg").write_text("no image")
    return folder


@pytest.fixture
def config(root: Path, tmp_path: Path) -> DictConfig:
    """What conf/infer.yaml holds, with a checkpoint (a fake one) and an output folder."""
    config = OmegaConf.load(root / "conf" / "infer.yaml")
    assert isinstance(config, DictConfig)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").touch()
    config.tta = {"name": "none", "scales": None, "flip": True}
    config.checkpoint, config.output = str(tmp_path / "model"), str(tmp_path / "out")
    return config


def use_model(monkeypatch: pytest.MonkeyPatch, predictor: FakePredictor) -> list[Request]:
    """Has :func:`infer` load this predictor; returns a list that will hold what it asked for."""
    requests: list[Request] = []

    def load(request: Request) -> Loaded:
        requests.append(request)
        return Loaded(predictor=predictor, name=str(request.checkpoint), folder=None, notes=["Runtime: a fake"])

    monkeypatch.setattr(run, "load", load)
    return requests


def lines(config: DictConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.output, "predictions.jsonl").read_text().splitlines()]


def files(folder: str) -> list[str]:
    """Names the files below a folder, but for the list of them and the notes that inference keeps."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and path.name not in (MARKER, JOB))
    return sorted(path.relative_to(folder).as_posix() for path in found)


def test_classification(photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, FakePredictor("classification"))
    images = [str(photos / "b" / "cat.png"), str(photos / "a" / "cat.png")]
    assert infer(config, images) == 0
    assert lines(config) == [
        {
            "image": image,
            "width": 40,
            "height": 20,
            "task": "classification",
            "drawing": f"images/{Path(image).parent.name}/cat.jpg",
            "classes": [
                {"class_id": 6 - i, "label": f"kind {6 - i}", "score": score}
                for i, score in enumerate([best, 0.3, 0.2, 0.1, 0.05])
            ],
        }
        for image, best in zip(images, (0.4, 0.2), strict=True)
    ]
    assert files(config.output) == ["images/a/cat.jpg", "images/b/cat.jpg", "predictions.jsonl"]


def test_detection(photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, FakePredictor("detection"))
    assert infer(config, [str(photos / "a")]) == 0
    (line,) = lines(config)
    assert line == {
        "image": str(photos / "a" / "cat.png"),
        "width": 40,
        "height": 20,
        "task": "detection",
        "drawing": "images/cat.jpg",
        "boxes": [
            {"class_id": 1, "label": "dog", "score": 0.333333, "box": [0, 0, 40, 20]},
            {"class_id": 0, "label": "cat", "score": 0.2, "box": [0.33, 0, 2, 2]},
        ],
    }


def test_segmentation(photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, FakePredictor("segmentation"))
    assert infer(config, [str(photos / "a"), str(photos / "b")]) == 0
    assert [line["mask"] for line in lines(config)] == ["masks/a/cat.png", "masks/b/cat.png"]
    # Two classes are both called cat.
    assert lines(config)[0]["fractions"] == {"background": 0.5, "cat": 0.5}
    with PillowImage.open(Path(config.output, "masks", "a", "cat.png")) as mask:
        indices = np.asarray(mask)
        assert mask.mode == "P"
        colors = np.asarray(mask.convert("RGB"))[0, [39, 15, 0]]
        np.testing.assert_array_equal(colors, palette(["background", "cat", "cat"]))
    assert indices.shape == (20, 40)
    assert indices[5].tolist() == [2] * 10 + [1] * 10 + [0] * 20


COMMON = '{"image": "IMAGE", "width": 40, "height": 20, '
CLASSES = (
    '"classes": [{"class_id": 6, "label": "kind 6", "score": 0.2}, {"class_id": 5, "label": "kind 5", "score": 0.3}, '
    '{"class_id": 4, "label": "kind 4", "score": 0.2}, {"class_id": 3, "label": "kind 3", "score": 0.1}, '
    '{"class_id": 2, "label": "kind 2", "score": 0.05}]'
)
BOXES = (
    '"boxes": [{"class_id": 1, "label": "dog", "score": 0.333333, "box": [0.0, 0.0, 40.0, 20.0]}, '
    '{"class_id": 0, "label": "cat", "score": 0.2, "box": [0.33, 0.0, 2.0, 2.0]}]'
)
FRACTIONS = '"fractions": {"background": 0.5, "cat": 0.5}'
# The files of version 0.1.0, which scripts of users read.
ALONE = {
    "classification": f'{COMMON}"task": "classification", "drawing": "images/cat.jpg", {CLASSES}}}\n',
    "detection": f'{COMMON}"task": "detection", "drawing": "images/cat.jpg", {BOXES}}}\n',
    "segmentation": f'{COMMON}"task": "segmentation", "drawing": "images/cat.jpg", "mask": "masks/cat.png", '
    f"{FRACTIONS}}}\n",
}
TOGETHER = (
    f'{COMMON}"tasks": ["classification", "detection", "segmentation"], "drawing": "images/cat.jpg", '
    f'"mask": "masks/cat.png", {CLASSES}, {BOXES}, {FRACTIONS}}}\n'
)


def text_of_lines(config: DictConfig, image: Path) -> str:
    """Returns the lines of an image as they are in the file, with IMAGE for its path."""
    return Path(config.output, "predictions.jsonl").read_text().replace(str(image), "IMAGE")


@pytest.mark.parametrize("among", [False, True])
@pytest.mark.parametrize("chosen", EVERYTHING)
def test_one_task_writes_the_same_bytes_alone_and_among_others(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, chosen: Task, among: bool
) -> None:
    use_model(monkeypatch, FakePredictor(*EVERYTHING) if among else FakePredictor(chosen))
    config.task = chosen if among else None
    infer(config, [str(photos / "a")])
    assert text_of_lines(config, photos / "a" / "cat.png") == ALONE[chosen]
    masks = ["masks/cat.png"] if chosen == "segmentation" else []
    assert files(config.output) == ["images/cat.jpg", *masks, "predictions.jsonl"]
    drawing = FakePredictor(chosen)(photos / "a" / "cat.png").plot()
    assert Path(config.output, "images", "cat.jpg").read_bytes() == encode_jpeg(drawing)


def test_several_tasks_share_a_line_and_a_drawing(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_model(monkeypatch, FakePredictor(*EVERYTHING))
    config.draw_min_score = 0.3
    infer(config, [str(photos / "a")])
    assert text_of_lines(config, photos / "a" / "cat.png") == TOGETHER
    assert files(config.output) == ["images/cat.jpg", "masks/cat.png", "predictions.jsonl"]
    assert "2 boxes, 1 of them with a score of at least draw_min_score=0.3\n" in capsys.readouterr().out
    result = FakePredictor(*EVERYTHING)(photos / "a" / "cat.png")
    assert Path(config.output, "images", "cat.jpg").read_bytes() == encode_jpeg(result.plot(0.3))


def test_several_tasks_share_a_note_and_an_error(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(monkeypatch, FakePredictor(*EVERYTHING))
    PillowImage.new("1", (70_000, 1)).save(photos / "a" / "long.png")
    infer(config, [str(photos / "a" / "long.png"), str(photos / "c.jpg")])
    line, error = lines(config)
    assert list(line) == ["image", "width", "height", "tasks", "mask", "classes", "boxes", "fractions", "note"]
    assert line["note"].startswith("Not drawn: ")
    assert list(error) == ["image", "error"]
    assert files(config.output) == ["masks/a/long.png", "predictions.jsonl"]


def test_a_task_that_the_model_lacks_is_refused(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(monkeypatch, FakePredictor("classification", "detection"))
    config.task = "segmentation"
    with pytest.raises(UserError, match="does classification and detection, not segmentation"):
        infer(config, [str(photos)])


def test_an_unreadable_image_is_reported_and_the_rest_goes_on(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_model(monkeypatch, FakePredictor("detection"))
    broken = str(photos / "c.jpg")
    assert infer(config, [broken, str(photos / "a")]) == 1
    first, second = lines(config)
    assert first == {"image": broken, "error": f"{broken}: this is not an image in a known format."}
    assert second["image"] == str(photos / "a" / "cat.png")
    told = capsys.readouterr()
    assert f"Model: {config.checkpoint}\nRuntime: a fake\n" in told.out
    assert "2 images, 1 of them without prediction" in told.out
    assert config.output in told.out
    assert told.err == f"error: {broken}: this is not an image in a known format.\n", "and no progress bar"


def test_each_line_is_on_disk_before_the_next_image_is_processed(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watching(FakePredictor):
        def run(self, images: NDArray[np.uint8]) -> Outputs:
            written.append(len(lines(config)))
            return super().run(images)

    written: list[int] = []
    use_model(monkeypatch, Watching("detection"))
    config.threads = 1
    infer(config, [str(photos / "a"), str(photos / "b")])
    assert written == [0, 1]


def test_results_before_an_error_are_written(photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(FakePredictor):
        def run(self, images: NDArray[np.uint8]) -> Outputs:
            if images.mean() > 80:
                raise KeyboardInterrupt
            return super().run(images)

    use_model(monkeypatch, Interrupted("detection"))
    config.threads = 2
    with pytest.raises(KeyboardInterrupt):
        infer(config, [str(photos / "a"), str(photos / "b")])
    assert [line["image"] for line in lines(config)] == [str(photos / "a" / "cat.png")]


@pytest.mark.parametrize(
    ("threads", "images", "workers", "at_a_time"),
    [(4, 1, 1, "one"), (4, 2, 2, "2"), (2, 3, 2, "2"), (1, 3, 1, "one")],
)
def test_as_many_images_are_processed_at_a_time_as_there_are_cores(
    photos: Path,
    config: DictConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    threads: int,
    images: int,
    workers: int,
    at_a_time: str,
) -> None:
    requests = use_model(monkeypatch, FakePredictor("detection"))
    config.threads = threads
    infer(config, [str(photos / "a" / "cat.png")] * images)
    assert [(request.cores, request.workers) for request in requests] == [(threads, workers)]
    assert re.search(rf"Milliseconds an image: reading [\d.]+, .*; {at_a_time} at a time", capsys.readouterr().out)


def test_a_budget_of_memory_is_for_one_image_at_a_time(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = use_model(monkeypatch, FakePredictor("detection"))
    config.threads, config.memory_budget = 2, "1MB"
    infer(config, [str(photos / "a"), str(photos / "b")])
    assert [(request.cores, request.workers) for request in requests] == [(2, 1)]
    assert "one at a time" in capsys.readouterr().out


@pytest.mark.parametrize("threads", [1, 2])
def test_results_depend_on_neither_threads_nor_batches_nor_drawings(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, threads: int
) -> None:
    images = [str(photos / name) for name in ("a", "c.jpg", "b", "a/cat.png")]
    use_model(monkeypatch, FakePredictor(*EVERYTHING))
    config.threads = 1
    infer(config, images)
    expected = lines(config)
    config.threads, config.batch_size, config.save_images = threads, 3, False
    config.output = str(tmp_path / "again")
    infer(config, images)
    assert lines(config) == [{key: value for key, value in line.items() if key != "drawing"} for line in expected]
    for mask in files(str(tmp_path / "out" / "masks")):
        assert Path(config.output, "masks", mask).read_bytes() == (tmp_path / "out" / "masks" / mask).read_bytes()


def test_an_image_that_is_gone_when_it_is_drawn_is_reported(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deleting(FakePredictor):
        def postprocess(self, outputs: Outputs, placements: Sequence[Placement]) -> list[dict[str, Prediction]]:
            (photos / "a" / "cat.png").unlink()
            return super().postprocess(outputs, placements)

    use_model(monkeypatch, Deleting("detection"))
    gone = str(photos / "a" / "cat.png")
    assert infer(config, [gone]) == 1
    assert lines(config) == [{"image": gone, "error": f"{gone}: there is no such file."}]


def test_images_need_not_be_drawn(photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, FakePredictor("detection"))
    config.save_images = False
    infer(config, [str(photos / "a")])
    assert files(config.output) == ["predictions.jsonl"]


def test_thresholds_of_lines_and_drawings_are_their_own(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(monkeypatch, FakePredictor("detection"))
    config.min_score, config.draw_min_score = 0.0, 0.9
    infer(config, [str(photos / "a")])
    assert len(lines(config)[0]["boxes"]) == 3
    with PillowImage.open(Path(config.output, "images", "cat.jpg")) as drawing:
        assert np.ptp(np.asarray(drawing)) < 5, "a plain image without boxes stays plain"


def test_the_default_output_is_a_folder_of_its_own(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_model(monkeypatch, FakePredictor("classification"))
    monkeypatch.chdir(tmp_path)
    config.output = None
    infer(config, [str(photos / "a")])
    (found,) = Path("outputs", "infer").iterdir()
    assert files(str(found)) == ["images/cat.jpg", "predictions.jsonl"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("min_score", 1.5, r"min_score must be in 0\.\.1, got 1\.5"),
        ("draw_min_score", -1, r"draw_min_score must be in 0\.\.1, got -1"),
        ("min_score", None, "min_score must be in"),
        ("batch_size", 0, "batch_size must be a whole number from 1 up, or null .*, got 0"),
        ("batch_size", 1.5, r"batch_size must be a whole number from 1 up, or null .*, got 1\.5"),
        ("threads", 0, "threads must be a whole number from 1 up, or null .*, got 0"),
        ("weights", "other", r"checkpoint=.*model and weights=other both name a model; give one of them"),
    ],
)
def test_a_wrong_key_is_refused_before_anything_is_written(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, message: str
) -> None:
    use_model(monkeypatch, FakePredictor("detection"))
    config[key] = value
    with pytest.raises(UserError, match=message):
        infer(config, [str(photos)])
    assert not Path(config.output).exists()


def test_no_images_is_an_error_with_an_example(config: DictConfig) -> None:
    with pytest.raises(UserError, match=r"mbv2kit infer photos/"):
        infer(config, [])


def test_an_output_that_cannot_be_written_is_reported(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(monkeypatch, FakePredictor("detection"))
    config.output = str(photos / "c.jpg")
    with pytest.raises(UserError, match=r"output=.*c\.jpg is a file; name a folder"):
        infer(config, [str(photos / "a")])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_cannot_be_written_is_reported_from_any_thread(
    photos: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    use_model(monkeypatch, FakePredictor("segmentation"))

    class InTheWay(FakePredictor):
        def run(self, images: NDArray[np.uint8]) -> Outputs:
            if not Path(config.output, "masks").exists():
                Path(config.output, "masks").write_text("in the way")
            return super().run(images)

    use_model(monkeypatch, InTheWay("segmentation"))
    config.threads, config.save_images = threads, False
    with pytest.raises(
        UserError, match=r"masks.* cannot be written \((File exists|Not a directory)\); name another folder"
    ):
        infer(config, [str(photos / "a"), str(photos / "b")])


def test_records_are_plain_values_that_json_restores() -> None:
    for outputs in (
        describe(Classification(np.array([0]), np.array([1 / 3], dtype=np.float32)), ["é"], 0.0),
        describe(Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)), ["é"], 0.0),
        describe(Segmentation(np.zeros((3, 3), dtype=np.uint8)), ["é"], 0.0),
    ):
        assert json.loads(json.dumps(outputs)) == outputs


def test_shares_add_up_to_one() -> None:
    mask = np.random.default_rng(0).integers(0, 7, (31, 17), dtype=np.uint8)
    fractions = describe(Segmentation(mask), [f"kind {i}" for i in range(9)], 0.0)["fractions"]
    assert list(fractions) == [f"kind {i}" for i in range(7)]
    assert sum(fractions.values()) == pytest.approx(1, abs=1e-5)
    assert fractions["kind 3"] == pytest.approx((mask == 3).mean(), abs=1e-6)


class StoppedPredictor(FakePredictor):
    """A fake that is stopped, as by a signal, once it has predicted for some images."""

    left = 0

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().run(images)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with five images, one of which cannot be read."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(4):
        PillowImage.new("RGB", (40, 20), (50 * number,) * 3).save(folder / f"{number}.png")
    (folder / "2_broken.jpg").write_text("no image")
    return folder


def stop_after(count: int, images: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicts for some images and is stopped."""
    stopped = StoppedPredictor(*EVERYTHING)
    stopped.left = count
    use_model(monkeypatch, stopped)
    config.threads = 1
    with pytest.raises(KeyboardInterrupt):
        infer(config, [str(images)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_stopped_inference_goes_on_where_it_was(
    many: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    use_model(monkeypatch, FakePredictor(*EVERYTHING))
    output = config.output
    config.output = f"{output}_whole"
    assert infer(config, [str(many)]) == 1
    whole = {name: Path(config.output, name).read_bytes() for name in files(config.output)}
    told = capsys.readouterr()

    config.output = output
    stop_after(count, many, config, monkeypatch)
    # The system may have written half of a line, or zeros after a loss of power.
    text = Path(output, "predictions.jsonl")
    before = text.read_bytes().count(b"\n")
    text.write_bytes(text.read_bytes() + (b"\0\0\0\n{}\n" if count == 3 else b'{"image": "'))
    capsys.readouterr()
    going_on = StoppedPredictor(*EVERYTHING)
    going_on.left = 4 - count
    use_model(monkeypatch, going_on)
    config.resume, config.threads = True, 2
    assert infer(config, [str(many)]) == 1
    assert {name: Path(output, name).read_bytes() for name in files(output)} == whole
    assert going_on.left == 0
    again = capsys.readouterr()
    assert again.err == told.err
    assert (f"{before} of 5 images have their lines already" in again.out) == (before > 0)
    # Once more, there is nothing left to do.
    assert infer(config, [str(many)]) == 1
    assert {name: Path(output, name).read_bytes() for name in files(output)} == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_score": 0.5}, r"was begun with min_score=0\.05, and it is 0\.5 now"),
        ({"tta.name": "multiscale_flip"}, r"was begun with tta\.name=none, and it is multiscale_flip now"),
        ({"checkpoint": "other"}, r"was begun with checkpoint=.*model, and it is other now"),
        ({"images": "new"}, r"was begun for other images, or in another order; repeat the first call"),
        ({"output": None}, r"^resume=true goes on in the folder of a stopped inference; name it with output=DIR\.$"),
    ],
    ids=str,
)
def test_another_job_does_not_go_on(
    many: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    stop_after(1, many, config, monkeypatch)
    output = Path(config.output)
    kept = {name: (output / name).read_bytes() for name in files(config.output)}
    config.resume = True
    for key, value in change.items():
        if key == "images":
            PillowImage.new("RGB", (40, 20)).save(many / "more.png")
        else:
            OmegaConf.update(config, key, value)
    use_model(monkeypatch, FakePredictor(*EVERYTHING))
    with pytest.raises(UserError, match=message):
        infer(config, [str(many)])
    assert {name: (output / name).read_bytes() for name in files(str(output))} == kept


def test_going_on_in_an_empty_folder_begins(many: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, FakePredictor("classification"))
    config.resume = True
    assert infer(config, [str(many)]) == 1
    assert len(lines(config)) == 5
    # Without the key it begins anew.
    config.resume, config.min_score = False, 0.9
    assert infer(config, [str(many)]) == 1
    assert len(lines(config)) == 5
