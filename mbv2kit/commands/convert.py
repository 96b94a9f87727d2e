"""Converts published weights to a model folder, to train from, evaluate, use or publish.

mbv2kit convert source=mobilenet_v2_1.0_224_quant.tflite output=models/mobilenet_v2 licence=apache-2.0
mbv2kit convert source=torchvision:mobilenet_v2 output=models/torchvision
mbv2kit convert source=timm:mobilenetv2_120d output=models/timm
mbv2kit convert source=hub:google/deeplabv3_mobilenet_v2_1.0_513 output=models/deeplab
mbv2kit convert source=my_network.pth output=models/mine class_names=labels.txt
mbv2kit convert source=outputs/several output=models/detector tasks=[detection]
"""

from collections.abc import Sequence
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command


def job(config: DictConfig) -> None:
    """Converts; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.weights.convert import convert

    convert(config.source, config.output, license=config.licence, class_names=config.class_names, tasks=config.tasks)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("convert", __doc__, job, argv)
