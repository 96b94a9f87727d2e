"""Trains a model and writes everything about it into one run folder.

mbv2kit train
mbv2kit train task=classification dataset=folder dataset.root=DIR trainer.max_epochs=50
mbv2kit train task=detection dataset=coco dataset.root=DIR backbone.width=0.5 trainer=gpu
mbv2kit train task=segmentation dataset=voc dataset.root=DIR optimizer.lr=0.0005 seed=1
mbv2kit train -m backbone.width=0.35,0.5,1.0 run_dir=outputs/widths
mbv2kit train resume=outputs/detection/coco/2026-01-31_12-00-00
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mbv2kit.cli.command import run_command
from mbv2kit.training.parts import training_parts


def job(config: DictConfig) -> None:
    """Trains; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.cli.logs import show_log

    show_log()
    from mbv2kit.training.run import train_or_stop

    _, stopped = train_or_stop(config, list(HydraConfig.get().overrides.task))
    if stopped is not None:
        # As a shell counts a process that a signal ended; it ends a sweep as well.
        sys.exit(128 + stopped)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("train", __doc__, job, argv, parts=training_parts)
