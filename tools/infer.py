"""Sees images with a trained model: predictions.jsonl, annotated images and masks in one folder.

    python tools/infer.py cat.jpg photos/ 'archive/**/*.png'
    python tools/infer.py photos/ checkpoint=outputs/detection/coco/2026-01-31_12-00-00 output=found min_score=0.3
    python tools/infer.py photos/ task=segmentation save_images=false

What is neither key=value nor a flag is an image, a folder or a pattern; so is a file whose name looks like key=value.
"""

import gc
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:]*=|~[A-Za-z_][\w./@:]*$")
FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts a command line into the images it names and Hydra's arguments."""
    images: list[str] = []
    overrides: list[str] = []
    previous = ""
    for argument in arguments:
        if previous in FLAGS_WITH_VALUE:
            overrides.append(argument)
        elif os.path.exists(argument) or not (argument.startswith("-") or OVERRIDE.match(argument)):
            images.append(argument)
        else:
            overrides.append(argument)
        previous = argument
    return images, overrides


if __name__ == "__main__":
    # What is imported from here on stays: to look for garbage in it would take a tenth of the time of a single image.
    gc.disable()
    from mbv2kit.cli.config import run_tool

    images, overrides = split_arguments(sys.argv[1:])

    def job(config: "DictConfig") -> int:
        """Sees the images; what takes long to import is imported once the command line is known to be right."""
        from mbv2kit.inference.run import infer

        gc.freeze()
        gc.enable()
        return infer(config, images)

    run_tool(__file__, "infer", job, overrides)
