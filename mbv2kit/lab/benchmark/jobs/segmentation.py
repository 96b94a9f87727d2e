"""Segmentation networks at 513, from the pixels of an image to a mask of its size."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Calls, Case
from mbv2kit.lab.benchmark.jobs.models import Model, in_every_runtime

BASELINE = "transformers MobileNetV2"
NAME = "513"
PUBLISHED = "deeplabv3_mnv2_pascal_quant.tflite"
QUANTIZED = f"{PUBLISHED} in LiteRT"
_SETUPS = "mbv2kit.lab.benchmark.competitors.segmenters"


def cases(models: Sequence[Model], quantized: Path | None) -> list[Case]:
    """Lists the case.

    Args:
        models: Ours.
        quantized: The file :data:`PUBLISHED` of Google; None where it is not at hand.
    """
    peers = [
        Calls(
            name=BASELINE,
            group="peer",
            library="transformers",
            needs=("torch", "transformers", "cv2"),
            setup=f"{_SETUPS}:transformers",
        ),
        Calls(
            name="torchvision deeplabv3_mobilenet_v3_large",
            group="peer",
            library="torchvision",
            needs=("torch", "torchvision", "cv2"),
            setup=f"{_SETUPS}:torchvision",
        ),
    ]
    notes = [
        "whole: from a uint8 image to a mask of its size; network: from inputs that are ready to what the network "
        "gives, which is a mask of 513 x 513 for ours and LiteRT's and logits for the others, in transformers of 33 x "
        "33."
    ]
    if quantized is None:
        notes.append(f"Without {QUANTIZED}, which is data/weights/{PUBLISHED} of the folder that shared= names.")
    else:
        peers.append(
            Calls(
                name=QUANTIZED,
                group="by hand",
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
            title="Segmentation at 513 x 513, 21 classes, an image of 640 x 480",
            baseline=(BASELINE, "network"),
            competitors=[*peers, *in_every_runtime(models, "segmentation", {})],
            notes=notes,
        )
    ]
