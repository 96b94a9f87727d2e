"""Segmentation at 513 x 513, from the pixels of an image to a mask of its size."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case, FunctionCompetitor
from mbv2kit.lab.benchmark.jobs.models import Model, in_every_runtime

BASELINE = "transformers MobileNetV2"
NAME = "513"
PUBLISHED = "deeplabv3_mnv2_pascal_quant.tflite"
QUANTIZED = f"{PUBLISHED} in LiteRT"
_SETUPS = "mbv2kit.lab.benchmark.competitors.segmenters"


def cases(models: Sequence[Model], quantized: Path | None) -> list[Case]:
    """Returns the case.

    Args:
        models: Models of mbv2kit.
        quantized: Google's file :data:`PUBLISHED`; None if there is none.
    """
    competitors = [
        FunctionCompetitor(
            name=BASELINE,
            group="library",
            library="transformers",
            needs=("torch", "transformers", "cv2"),
            setup=f"{_SETUPS}:transformers",
        ),
        FunctionCompetitor(
            name="torchvision deeplabv3_mobilenet_v3_large",
            group="library",
            library="torchvision",
            needs=("torch", "torchvision", "cv2"),
            setup=f"{_SETUPS}:torchvision",
        ),
    ]
    notes = [
        "whole: from a uint8 image to a mask of its size; network: from preprocessed inputs to the outputs of the "
        "network, a mask in mbv2kit and LiteRT and logits in the others (33 x 33 in transformers).",
        "Libraries: 513 x 513, 21 classes.",
        *(model.note for model in models),
    ]
    if quantized is None:
        notes.append(f"Without {QUANTIZED}, which needs data/weights/{PUBLISHED} in the folder shared=.")
    else:
        competitors.append(
            FunctionCompetitor(
                name=QUANTIZED,
                group="runtime",
                precision="int8",
                library="litert",
                needs=("ai_edge_litert", "cv2"),
                setup=f"{_SETUPS}:litert",
                options={"path": str(quantized)},
            )
        )
    return [
        Case(
            job="segmentation",
            name=NAME,
            title="Segmentation, an image of 640 x 480",
            baseline=(BASELINE, "network"),
            competitors=[*competitors, *in_every_runtime(models, "segmentation", {})],
            notes=notes,
        )
    ]
