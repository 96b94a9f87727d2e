"""Detectors at 320, from the pixels of an image to the boxes that are left after NMS."""

from collections.abc import Sequence
from dataclasses import replace

from mbv2kit.lab.benchmark.competitor import Calls, Case
from mbv2kit.lab.benchmark.jobs.models import Model, in_every_runtime

THRESHOLDS = (0.05, 0.001)
BASELINE = "torchvision ssdlite320_mobilenet_v3_large"
YOLO = "ultralytics yolo11n"
_SETUPS = "mbv2kit.lab.benchmark.competitors.detectors"


def cases(models: Sequence[Model]) -> list[Case]:
    """Lists the cases for our models; files that suppress boxes themselves are for other programs than ours."""
    models = [
        replace(model, exports=tuple(export for export in model.exports if export.nms_options is not None))
        for model in models
    ]
    return [
        Case(
            job="detection",
            name=f"threshold {threshold}",
            title=f"Detection at 320 x 320, boxes with a score above {threshold}",
            baseline=(BASELINE, "whole"),
            competitors=[*_peers(threshold), *in_every_runtime(models, "detection", {"score_threshold": threshold})],
            notes=(
                "whole: from a uint8 image of the network's size to boxes after NMS; after: what follows our "
                "network, which is in whole; network: the bare network from a float input.",
                "All but ultralytics have scores as a trained detector gives them, a hundred above 0.05 and five "
                "thousand above 0.001; ultralytics finds nothing, so that its NMS costs next to nothing.",
            ),
        )
        for threshold in THRESHOLDS
    ]


def _peers(threshold: float) -> list[Calls]:
    options = {"score_threshold": threshold}
    return [
        Calls(
            name=BASELINE,
            group="peer",
            library="torchvision",
            needs=("torch", "torchvision"),
            setup=f"{_SETUPS}:torchvision",
            options=options,
        ),
        Calls(
            name=YOLO,
            group="peer",
            library="ultralytics",
            needs=("torch", "ultralytics"),
            setup=f"{_SETUPS}:ultralytics",
            options=options,
        ),
        Calls(
            name="torchvision's bare network in ONNX Runtime",
            group="by hand",
            library="onnxruntime",
            needs=("onnxruntime", "torch"),
            setup=f"{_SETUPS}:onnxruntime_network",
            assets=("ssdlite320.onnx",),
        ),
    ]
