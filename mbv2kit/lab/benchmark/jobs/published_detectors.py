"""Published detectors in the programs that they were made for, and their exports by mbv2kit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case, FunctionCompetitor
from mbv2kit.lab.benchmark.jobs.models import Model, in_every_runtime, nms_outside

# The folder shared= has them in data/weights.
OPEN_IMAGES = "ssd_mobilenet_v2_oidv4_fp16.tflite"
PEDESTRIANS = "ssdlite_mobilenet_v2_pedestrian.pb"
_SETUPS = "mbv2kit.lab.benchmark.competitors.published_detectors"
_THRESHOLD = 0.05


def cases(models: Sequence[Model], folder: Path | None) -> list[Case]:
    """Returns a case for each of the two files that is there.

    Args:
        models: Models of mbv2kit; a case takes those that were converted from its file.
        folder: Folder of the published files; None if there is none.
    """
    baselines = {
        OPEN_IMAGES: FunctionCompetitor(
            name="LiteRT",
            group="runtime",
            library="litert",
            needs=("ai_edge_litert",),
            setup=f"{_SETUPS}:litert",
        ),
        PEDESTRIANS: FunctionCompetitor(
            name="OpenCV dnn",
            group="runtime",
            library="cv2",
            needs=("cv2", "google"),
            setup=f"{_SETUPS}:opencv",
        ),
    }
    return [
        Case(
            job="published_detectors",
            name=file,
            title=f"`{file}`",
            baseline=(baseline.name, "network"),
            competitors=[
                replace(baseline, options={"path": str(folder / file)}),
                *in_every_runtime(
                    nms_outside([each for each in models if each.source == file]),
                    "detection",
                    {"score_threshold": _THRESHOLD},
                ),
            ],
            notes=(
                f"{baseline.name}: the network alone, from float input to codes and logits, on the published file.",
                "mbv2kit: from an image of the network's size to boxes after NMS, with the scores of a busy scene.",
            ),
        )
        for file, baseline in baselines.items()
        if folder is not None and (folder / file).is_file()
    ]
