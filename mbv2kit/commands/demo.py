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
from mbv2kit.cli.extras import check_installed
from mbv2kit.cli.together import run_together
from mbv2kit.errors import UserError, nearest
from mbv2kit.process import usable_cores

METRICS = {"classification": "top1", "detection": "AP50", "segmentation": "mIoU"}


def job(config: DictConfig) -> int:
    """Trains each task by its experiment file, then prints the metrics and where the images are.

    All tasks train at the same time and share the cores: a small network gains little from a second thread.
    """
    # A missing package is reported once, here, and not by each task.
    check_installed("torch")
    from mbv2kit.models.run_folder import RunFolder

    for task in config.tasks:
        if task not in METRICS:
            raise UserError(f"tasks: there is no task '{task}'.{nearest(str(task), METRICS)}")
    started = time.perf_counter()
    runs = {task: RunFolder(Path(config.run_dir) / task) for task in config.tasks}
    # Reading by a process of its own would only pay with a core of its own.
    commands = {
        task: ["train", f"experiment=shapes/{task}", f"run_dir='{run.path}'", "loader.workers=0"]
        for task, run in runs.items()
    }
    codes = run_together(commands, threads=max(1, usable_cores() // max(1, len(runs))))
    finished = {task: run for task, run in runs.items() if codes[task] == 0 and run.finished}
    if finished:
        print(f"\nTrained in {(time.perf_counter() - started) / 60:.1f} minutes; metrics on images not trained on:")
    for task, run in finished.items():
        value = json.loads(run.metrics.read_text())["metrics"][METRICS[task]]
        print(f"  {task:<15} {METRICS[task]:<5} {value:.3f}   look at {run.predictions / 'overview.png'}")
    return max(codes.values(), default=0)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("demo", __doc__, job, argv)
