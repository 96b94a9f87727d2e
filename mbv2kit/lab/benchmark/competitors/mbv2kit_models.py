"""Models of mbv2kit: exported files in every runtime, and PyTorch."""

from dataclasses import replace
from pathlib import Path

from mbv2kit.imaging.postprocess import postprocess
from mbv2kit.inference.exported import open_export
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.runtimes import RuntimeName, open_session
from mbv2kit.lab.benchmark.competitors.images import pixels
from mbv2kit.lab.benchmark.competitors.scores import detector_scores
from mbv2kit.lab.benchmark.competitors.segmenters import IMAGE
from mbv2kit.lab.benchmark.workload import Workload
from mbv2kit.models.exports import Export
from mbv2kit.models.folder import ModelFolder


def classification(threads: int, batch: int, folder: str, file: str, runtime: RuntimeName) -> Workload:
    """From network inputs to probabilities; a file with a smaller batch size runs several times."""
    export = _export(folder, file)
    model = _open(folder, export, runtime, threads)
    images = pixels(batch, *export.size)
    return Workload({"whole": lambda: model.outputs(images)})


def in_torch(threads: int, batch: int, folder: str, compiled: bool) -> Workload:
    """The same in PyTorch, as ``runtime=torch`` does it."""
    import torch

    from mbv2kit.inference.torch_models import folded
    from mbv2kit.models.vision_model import VisionModel

    torch.set_num_threads(threads)
    model = folded(VisionModel.load(Path(folder)), compiled=compiled)
    images = pixels(batch, *model.preprocess.size)
    return Workload({"whole": lambda: model.outputs(images)})


def detection(threads: int, score_threshold: float, folder: str, file: str, runtime: RuntimeName) -> Workload:
    """From a network input to the boxes after NMS; ``after`` is everything after the network."""
    export = _export(folder, file)
    nms_options = replace(export.nms_options["detection"], score_threshold=score_threshold)
    session = open_session(runtime, Path(folder), export, threads)
    images = pixels(1, *export.size).astype(export.input)
    outputs = dict(session(images))
    scores = detector_scores(*outputs["scores"].shape[1:])[None]

    def whole() -> object:
        return postprocess("detection", {**session(images), "scores": scores}, export.size, nms_options)

    def after() -> object:
        return postprocess("detection", {**outputs, "scores": scores}, export.size, nms_options)

    (found,) = postprocess("detection", {**outputs, "scores": scores}, export.size, nms_options)
    return Workload({"whole": whole, "after": after}, {"boxes": len(found.scores), "classes": scores.shape[2]})  # type: ignore[union-attr]


def segmentation(threads: int, folder: str, file: str, runtime: RuntimeName) -> Workload:
    """From an image to a mask of its size; ``network`` is the exported file alone, including its mask."""
    export = _export(folder, file)
    model = _open(folder, export, runtime, threads)
    image = pixels(1, *IMAGE)[0]
    inputs = pixels(1, *export.size)

    def whole() -> object:
        shown, placement = model.preprocess(image)
        return model.predict_inputs(shown[None], [placement])

    return Workload({"whole": whole, "network": lambda: model.outputs(inputs)})


def multiply_adds(folder: str) -> Workload:
    """Counts the multiply-adds of a model for one image."""
    from mbv2kit.analysis.complexity import complexity
    from mbv2kit.models.vision_model import VisionModel

    model = VisionModel.load(Path(folder))
    return Workload({}, {"madds": complexity(model, model.preprocess.size).madds})


def _export(folder: str, file: str) -> Export:
    return next(export for export in ModelFolder(Path(folder)).read_exports() if export.file == file)


def _open(folder: str, export: Export, runtime: RuntimeName, threads: int) -> Predictor:
    return open_export(ModelFolder(Path(folder)).read_spec(), Path(folder), export, runtime, threads)
