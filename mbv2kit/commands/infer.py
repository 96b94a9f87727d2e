"""Runs a trained model on images: predictions.jsonl, annotated images and masks in one folder.

mbv2kit infer cat.jpg photos/ 'archive/**/*.png'
mbv2kit infer photos/ checkpoint=outputs/detection/coco/2026-01-31_12-00-00 output=found min_score=0.3
mbv2kit infer photos/ task=segmentation save_images=false
mbv2kit infer photos/ checkpoint=DETECTOR then=CLASSIFIER then_margin=0.1

An argument that is neither key=value nor a flag is an image, a folder or a pattern; so is an existing file whose name
looks like key=value.
"""

import gc
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from omegaconf import DictConfig

OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:]*=|~[A-Za-z_][\w./@:]*$")
FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    # Imported modules stay; looking for garbage among them would take a tenth of the time of a single image.
    gc.disable()
    from mbv2kit.cli.command import run_command

    images, overrides = split_arguments(sys.argv[1:] if argv is None else argv)

    def job(config: "DictConfig") -> int:
        """Predicts; what takes long to import is imported once the command line is known to be right."""
        from mbv2kit.inference.run import infer

        gc.freeze()
        gc.enable()
        return infer(config, images)

    run_command("infer", __doc__, job, overrides)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the images it names and Hydra's arguments."""
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
