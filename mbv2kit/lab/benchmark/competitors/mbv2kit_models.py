"""Models of mbv2kit: exported files in every runtime, and PyTorch."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from mbv2kit.imaging.postprocess import postprocess
from mbv2kit.inference.deployed import DeployedModel
from mbv2kit.inference.runtimes import RuntimeName, open_session
from mbv2kit.lab.benchmark.competitors.images import pixels
from mbv2kit.lab.benchmark.competitors.scores import detector_scores
from mbv2kit.lab.benchmark.competitors.segmenters import IMAGE
from mbv2kit.lab.benchmark.workload import Workload
from mbv2kit.models.exports import Export, read_exports
from mbv2kit.models.spec import read_spec


def classification(threads: int, batch: int, folder: str, file: str, runtime: RuntimeName) -> Workload:
    """From network inputs to probabilities; a file with a smaller batch size runs several times."""
    export = _export(folder, file)
    model = _open(folder, export, runtime, threads)
    images = pixels(batch, *export.size)
    return Workload({"whole": lambda: model.outputs(images)})


def in_torch(threads: int, batch: int, folder: str, compiled: bool) -> Workload:
    """The same in PyTorch, as ``runtime=torch`` does it."""
    import torch

    from mbv2kit.inference.in_torch import deploy
    from mbv2kit.models.vision_model import VisionModel

    torch.set_num_threads(threads)
    model = deploy(VisionModel.load(Path(folder)), compiled=compiled)
    images = pixels(batch, *model.input.size)
    return Workload({"whole": lambda: model.outputs(images)})


def detection(threads: int, score_threshold: float, folder: str, file: str, runtime: RuntimeName) -> Workload:
    """From a network input to the boxes after NMS; ``after`` is everything after the network."""
    export = _export(folder, file)
    assert export.nms_options is not None
    nms_options = replace(export.nms_options, score_threshold=score_threshold)
    session = open_session(runtime, Path(folder), export, threads)
    images = pixels(1, *export.size)
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
        shown, placement = model.input(image)
        return model.read(model.outputs(shown[None]), [placement])

    return Workload({"whole": whole, "network": lambda: model.outputs(inputs)})


def multiply_adds(folder: str) -> Workload:
    """Counts the multiply-adds of a model for one image."""
    from mbv2kit.analysis.complexity import complexity
    from mbv2kit.models.vision_model import VisionModel

    model = VisionModel.load(Path(folder))
    return Workload({}, {"madds": complexity(model, model.input.size).madds})


def _export(folder: str, file: str) -> Export:
    return next(export for export in read_exports(Path(folder)) if export.file == file)


def _open(folder: str, export: Export, runtime: RuntimeName, threads: int) -> DeployedModel:
    return DeployedModel(
        read_spec(Path(folder)),
        partial(open_session, runtime, Path(folder), export),
        threads,
        size=export.size,
        batch=export.batch,
        nms_options=export.nms_options,
    )
