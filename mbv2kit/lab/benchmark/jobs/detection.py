"""Detection at 320 x 320, from the pixels of an image to the boxes after NMS."""

from collections.abc import Sequence

from mbv2kit.lab.benchmark.competitor import Case, FunctionCompetitor
from mbv2kit.lab.benchmark.jobs.models import Model, in_every_runtime, nms_outside

THRESHOLDS = (0.05, 0.001)
BASELINE = "torchvision ssdlite320_mobilenet_v3_large"
YOLO = "ultralytics yolo11n"
_SETUPS = "mbv2kit.lab.benchmark.competitors.detectors"


def cases(models: Sequence[Model]) -> list[Case]:
    """Returns the cases; leaves out exported files that contain NMS, which mbv2kit does not run."""
    models = nms_outside(models)
    return [
        Case(
            job="detection",
            name=f"threshold {threshold}",
            title=f"Detection, boxes with a score above {threshold}",
            baseline=(BASELINE, "whole"),
            competitors=[
                *_libraries(threshold),
                *in_every_runtime(models, "detection", {"score_threshold": threshold}),
            ],
            notes=(
                "whole: from a uint8 image of the network's size to boxes after NMS; after: the part of whole that "
                "follows the network; network: the network alone, from float input.",
                "Except in ultralytics, scores are those of a trained detector: a hundred above 0.05 and five thousand "
                "above 0.001. Ultralytics detects nothing, so its NMS costs almost nothing.",
                "Libraries: 320 x 320.",
                *(model.note for model in models),
            ),
        )
        for threshold in THRESHOLDS
    ]


def _libraries(threshold: float) -> list[FunctionCompetitor]:
    options = {"score_threshold": threshold}
    return [
        FunctionCompetitor(
            name=BASELINE,
            group="library",
            library="torchvision",
            needs=("torch", "torchvision"),
            setup=f"{_SETUPS}:torchvision",
            options=options,
        ),
        FunctionCompetitor(
            name=YOLO,
            group="library",
            library="ultralytics",
            needs=("torch", "ultralytics"),
            setup=f"{_SETUPS}:ultralytics",
            options=options,
        ),
        FunctionCompetitor(
            name="torchvision's network alone in ONNX Runtime",
            group="runtime",
            library="onnxruntime",
            needs=("onnxruntime", "torch"),
            setup=f"{_SETUPS}:onnxruntime_network",
            assets=("ssdlite320.onnx",),
        ),
    ]
