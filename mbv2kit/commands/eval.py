"""Evaluates a trained model on a data set.

mbv2kit eval
mbv2kit eval task=segmentation dataset=voc dataset.root=DIR
mbv2kit eval checkpoint=outputs/detection/coco/2026-01-31_12-00-00 split=val2017
mbv2kit eval checkpoint=MODEL_FOLDER dataset=coco dataset.root=DIR run_dir=outputs/check
"""

from collections.abc import Sequence
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command
from mbv2kit.data.sources import SOURCES
from mbv2kit.evaluation import EVALUATORS


def job(config: DictConfig) -> None:
    """Evaluates; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.cli.logs import show_log

    show_log()
    from mbv2kit.evaluation.run import evaluate

    evaluate(config)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("eval", __doc__, job, argv, parts=lambda: [SOURCES, EVALUATORS])
