"""Trains and predicts for long, and compares memory and open files in the first quarter with those in the last.

python -m tests.training.endurance TASK      trains 2,000 steps with two loader workers
python -m tests.training.endurance infer     predicts for 20,000 images with a detector
"""

import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from mbv2kit.process import configure_threads
from tests.training.kills import TASKS
from tests.training.usage import Usage, usage

# Forty epochs of fifty steps, each with a validation and its checkpoints.
TRAINING: dict[str, Any] = {
    "dataset": "shapes",
    "dataset.size": 64,
    "dataset.train_count": 200,
    "dataset.val_count": 20,
    "input.size": [64, 64],
    "backbone.width": 0.35,
    "loader.batch_size": 4,
    "loader.workers": 2,
    "trainer.max_epochs": 40,
    "trainer.progress_bar": False,
}
# Two hundred files, each named a hundred times.
FILES, TIMES, IMAGES_BETWEEN = 200, 100, 500
# MB that may come, such as the scenes that workers keep in the first epochs; 10 kB lost in each step would add 15.
NOISE = 8


def train(task: str, folder: Path) -> list[Usage]:
    """Trains a task and returns the usage after every epoch of 50 steps, when as many batches are on their way."""
    from lightning import Trainer
    from lightning.pytorch.callbacks import LambdaCallback

    from mbv2kit.api import train as train_model
    from mbv2kit.training.fit import create_trainer

    samples: list[Usage] = []

    def watched(*arguments: Any) -> Trainer:
        trainer = create_trainer(*arguments)
        trainer.callbacks.append(LambdaCallback(on_train_epoch_end=lambda *_: samples.append(usage())))  # type: ignore[attr-defined]
        return trainer

    with patch("mbv2kit.training.run.create_trainer", watched):
        train_model(**TRAINING, task=task, run_dir=folder / "run")
    return samples


def infer(folder: Path) -> list[Usage]:
    """Predicts for 20,000 images as ``mbv2kit infer`` does, and returns the usage every 500 images."""
    from mbv2kit.cli.keywords import compose_in_program, to_overrides
    from mbv2kit.inference.pipeline import process as predict
    from mbv2kit.inference.run import infer as run_infer

    model, photos = folder / "run", folder / "photos"
    # In a process of its own: inference does without torch.
    process = get_context("spawn").Process(target=train_detector, args=(model,))
    process.start()
    process.join()
    photos.mkdir()
    for number in range(FILES):
        image = np.random.default_rng(number).integers(0, 256, (96 + number, 128, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{number}.jpg"), image)
    samples: list[Usage] = []

    def watched(*arguments: Any) -> Iterator[Any]:
        for number, made in enumerate(predict(*arguments)):
            if number % IMAGES_BETWEEN == 0:
                samples.append(usage())
            yield made

    keys = {"checkpoint": model, "runtime": "onnxruntime", "output": folder / "output"}
    with patch("mbv2kit.inference.run.process", watched):
        assert run_infer(compose_in_program("infer", to_overrides(keys), []), [str(photos)] * TIMES) == 0
    return samples


def train_detector(run: Path) -> None:
    """Trains a detector for an epoch."""
    from mbv2kit.api import train as train_model

    train_model(**{**TRAINING, "task": "detection", "run_dir": run, "trainer.max_epochs": 1})


def main(what: str) -> int:
    """Prints the medians of the first and the last quarter; returns 1 if they show a leak."""
    configure_threads()
    with tempfile.TemporaryDirectory(prefix="endurance_") as name:
        samples = train(what, Path(name)) if what in TASKS else infer(Path(name))
    quarter = len(samples) // 4
    first, last = samples[:quarter], samples[-quarter:]
    memory = [median(each.memory for each in part) for part in (first, last)]
    handles = [median(each.handles for each in part) for part in (first, last)]
    print(f"{what}: {memory[0]:.1f} MB, then {memory[1]:.1f}; {handles[0]:g} handles, then {handles[1]:g}")
    return int(memory[1] > memory[0] + NOISE or handles[1] > handles[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
