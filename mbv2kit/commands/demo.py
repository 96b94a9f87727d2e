"""Trains all three tasks on drawn shapes and shows what the models predict: no files and no network needed.

mbv2kit demo
mbv2kit demo run_dir=outputs/my_demo
mbv2kit demo tasks=[detection]
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command
from mbv2kit.cli.config import compose_config, conf_folder, register_parts
from mbv2kit.errors import UserError, nearest
from mbv2kit.training.parts import training_parts

METRICS = {"classification": "top1", "detection": "AP50", "segmentation": "mIoU"}


def job(config: DictConfig) -> None:
    """Trains each task by its experiment file, then prints the metrics and where the images are."""
    from mbv2kit.cli.logs import show_log
    from mbv2kit.models.run_folder import RunFolder
    from mbv2kit.training.run import train

    for task in config.tasks:
        if task not in METRICS:
            raise UserError(f"tasks: there is no task '{task}'.{nearest(str(task), METRICS)}")
    register_parts(conf_folder(), training_parts())
    show_log()
    started = time.perf_counter()
    runs = {task: RunFolder(Path(config.run_dir) / task) for task in config.tasks}
    for task, run in runs.items():
        train(compose_config(conf_folder(), "train", [f"experiment=shapes/{task}", f"run_dir='{run.path}'"]))
    print(f"\nTrained in {(time.perf_counter() - started) / 60:.1f} minutes; metrics on images not trained on:")
    for task, run in runs.items():
        value = json.loads(run.metrics.read_text())["metrics"][METRICS[task]]
        print(f"  {task:<15} {METRICS[task]:<5} {value:.3f}   look at {run.predictions / 'overview.png'}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("demo", __doc__, job, argv)
