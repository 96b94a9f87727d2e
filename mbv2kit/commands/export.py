"""Exports a trained model to a file that runs without torch, and checks that its predictions are the same.

mbv2kit export
mbv2kit export checkpoint=outputs/detection/coco/2026-01-31_12-00-00 format=openvino precision=fp16
mbv2kit export checkpoint=models/mobilenet_v2 precision=int8 calibration=photos/
mbv2kit export checkpoint=mobilenet_v2_1.0_224_quant.tflite output=models/mobilenet_v2
mbv2kit export checkpoint=RUN precision=int8 dataset=coco dataset.root=DIR

The file is written into the model folder, where `mbv2kit infer` finds it. If the check fails, there is no file and the
exit code is 1.
"""

from collections.abc import Sequence
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command
from mbv2kit.data.sources import SOURCES


def job(config: DictConfig) -> int:
    """Exports; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.exporting.run import export

    return 0 if export(config).problem is None else 1


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("export", __doc__, job, argv, parts=lambda: [SOURCES])
