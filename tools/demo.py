"""Trains all three tasks on drawn shapes and shows what the models see: no files and no network needed.

python tools/demo.py
python tools/demo.py outputs/my_demo
"""

import json
import sys
import time
from pathlib import Path

from mbv2kit.process import let_threads_sleep

FIGURES = {"classification": "top1", "detection": "AP50", "segmentation": "mIoU"}
CONF = Path(__file__).parents[1] / "conf"


def main(folder: Path) -> None:
    """Trains each task by its experiment file, and prints the figures and where the images are."""
    # torch's threads read this as they are made, so it comes before whatever imports torch.
    let_threads_sleep()
    from mbv2kit.cli.config import compose_config, register_parts
    from mbv2kit.runs import RunFolder
    from mbv2kit.training.run import train

    register_parts(CONF)
    started = time.perf_counter()
    runs = {task: RunFolder(folder / task) for task in FIGURES}
    for task, run in runs.items():
        train(compose_config(CONF, "train", [f"experiment=shapes/{task}", f"run_dir={run.path}"]))
    print(f"\nThree tasks learned in {(time.perf_counter() - started) / 60:.1f} minutes, on images never trained on:")
    for task, run in runs.items():
        figure = json.loads(run.metrics.read_text())["metrics"][FIGURES[task]]
        print(f"  {task:<15} {FIGURES[task]:<5} {figure:.3f}   look at {run.predictions / 'overview.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else time.strftime("outputs/demo/%Y-%m-%d_%H-%M-%S")))
