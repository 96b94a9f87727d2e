"""Compares one network of several heads with networks of one head each: time of an image, and memory.

python -m tests.inference.heads_speed TOGETHER ALONE [ALONE ...]      runs or model folders with ONNX files

The networks take turns, image by image, in torch and in ONNX Runtime, on one core. Memory is what loading them and 50
images add to a process that has imported the runtime, each time in a process of its own.
"""

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

import mbv2kit
from mbv2kit.structures import Image
from tests.training.usage import usage

RUNTIMES = {"torch": "torch", "onnxruntime": "onnxruntime"}
_ROUNDS = 300
_WARM_UP = 20


def drawn_images(count: int) -> list[Image]:
    """Draws images of the same noise for every network."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (96, 96, 3)).astype(np.uint8) for _ in range(count)]


def times(models: Sequence[str], runtime: str) -> list[float]:
    """Returns the median milliseconds of an image for each model and, last, for all but the first one after another."""
    predictors = [mbv2kit.load(model, runtime=runtime, threads=1) for model in models]
    taken: list[list[float]] = [[] for _ in (*models, "all")]
    for place, image in enumerate(drawn_images(_ROUNDS + _WARM_UP)):
        row = []
        for predictor in predictors:
            start = perf_counter()
            predictor(image)
            row.append(1000 * (perf_counter() - start))
        if place >= _WARM_UP:
            for values, value in zip(taken, [*row, sum(row[1:])], strict=True):
                values.append(value)
    return [median(values) for values in taken]


def memory(models: Sequence[str], runtime: str) -> float:
    """Returns the MB that some models take, measured in another process."""
    words = [sys.executable, "-m", __spec__.name, "--memory", runtime, *models]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def tell_memory(runtime: str, *models: str) -> None:
    """Prints the MB that some models add to this process."""
    import_module(RUNTIMES[runtime])
    images = drawn_images(50)
    before = usage().memory
    predictors = [mbv2kit.load(model, runtime=runtime, threads=1) for model in models]
    for image in images:
        for predictor in predictors:
            predictor(image)
    print(usage().memory - before)


def main(arguments: Sequence[str]) -> None:
    """Prints the times, the memory and their ratios."""
    together, *alone = arguments
    for runtime in RUNTIMES:
        whole, *each, every = times(arguments, runtime)
        names = ", ".join(f"{Path(name).name} {value:.2f}" for name, value in zip(alone, each, strict=True))
        print(f"{runtime}: {whole:.2f} ms together; {names}; one after another {every:.2f}")
        print(f"  {whole / max(each):.2f} of the slowest, {whole / every:.2f} of all one after another")
        ours, theirs, all_of_them = (memory(some, runtime) for some in ([together], [alone[0]], alone))
        largest = max(theirs, *(memory([name], runtime) for name in alone[1:]))
        print(f"  {ours:.0f} MB together; the largest alone {largest:.0f}, all of them {all_of_them:.0f}")


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        tell_memory(*sys.argv[2:])
    else:
        main(sys.argv[1:])
