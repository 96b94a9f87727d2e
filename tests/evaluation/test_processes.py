"""Evaluators in several processes: each adds its share of the images, and all compute the metrics of the whole."""

import math
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from mbv2kit.data.sources import create_source
from mbv2kit.evaluation import create_evaluator
from mbv2kit.structures import TASKS, Classification, Detections, Prediction, Sample, Segmentation

IMAGES = 7


def predict(sample: Sample, rng: np.random.Generator) -> Prediction:
    """A guess that is right now and then, with many equal scores."""
    if sample.mask is not None:
        return Segmentation(np.where(rng.random(sample.mask.shape) < 0.7, sample.mask, 1).astype(np.uint8))
    if sample.boxes is not None and sample.labels is not None:
        moved = sample.boxes + rng.normal(0, 2, sample.boxes.shape).astype(np.float32)
        return Detections(moved, sample.labels, rng.random(len(moved)).round(1).astype(np.float32))
    return Classification(rng.permutation(5), np.linspace(0.9, 0.1, 5).astype(np.float32))


def measure(first: int, step: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for task in TASKS:
        source = create_source("shapes", task=task, split="val", size=64, val_count=IMAGES)
        evaluator = create_evaluator(task, source.class_names)
        for index in range(first, IMAGES, step):
            sample = source[index]
            evaluator.update(predict(sample, np.random.default_rng(index)), sample)
        metrics |= evaluator.compute().metrics
    return metrics


def work(rank: int, folder: Path, expected: dict[str, float]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = measure(rank, 2)
    dist.destroy_process_group()
    assert all(math.isclose(found[name], value, abs_tol=1e-12) or math.isnan(value) for name, value in expected.items())


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    expected = measure(0, 1)
    assert 0 < expected["AP"] < 1
    processes = [get_context("spawn").Process(target=work, args=(rank, tmp_path, expected)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
