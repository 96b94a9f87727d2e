"""Measures how fast shards are written and read, next to the files that they are made of, in one process.

python -m tests.data.shards.pace ROOT          a folder with the layout of dataset=imagenet, whose split is `val`
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import DataModule
from mbv2kit.data.joined import Joined
from mbv2kit.data.sharding.run import make_shards
from mbv2kit.data.sources import Source, create_source
from mbv2kit.imaging.preprocess import Preprocess

ROUNDS, BATCH, COPIES = 7, 10, 5


def loader(source: Source) -> DataModule:
    """Returns the module that trains at 224 pixels on a source."""
    images, preprocess = Joined({"classification": source}), Preprocess(size=(224, 224), resize="crop")
    augment = create_augment({"preset": "classification"}, preprocess)
    return DataModule(images, images, augment=augment, preprocess=preprocess, batch_size=BATCH, workers=0, seed=0)


def epoch(modules: dict[str, DataModule], number: int) -> dict[str, float]:
    """Reads an epoch from each source, which take turns batch by batch; returns the processor's seconds of each."""
    batches = {}
    for name, module in modules.items():
        module.start_epoch(number)
        batches[name] = iter(module.train_dataloader())
    taken = dict.fromkeys(modules, 0.0)
    for turn in range(next(iter(modules.values())).steps_per_epoch):
        for name in sorted(modules, reverse=bool(turn % 2)):
            started = time.process_time()
            next(batches[name])
            taken[name] += time.process_time() - started
    return taken


def main(root: str) -> None:
    """Prints images a second of processor time, and the share that shards reach of the folder's rate."""
    options = {"root": root, "split": "val", "splits": ("val",)}
    folder = create_source("imagenet", task="classification", **options)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="shards_") as output:
        # Its images several times, so that a shard is as large as usual.
        images = Joined({"classification": folder})
        splits = {f"val{copy}": images for copy in range(COPIES)}
        started = time.process_time()
        written = make_shards(splits, Path(output), shuffled=[], seed=0, images_per_shard=1000, workers=0)
        seconds = time.process_time() - started
        count = sum(written.images.values())
        print(f"make_shards: {count / seconds:.0f} images/s, {written.size / seconds / 1e6:.0f} MB/s", flush=True)
        shards = create_source("shards", task="classification", root=output, split="val0")
        modules = {"folder": loader(folder), "shards": loader(shards)}
        epoch(modules, 0)
        rounds = [epoch(modules, number + 1) for number in range(ROUNDS)]
    for name in modules:
        print(f"{name}: {len(folder) / statistics.median(each[name] for each in rounds):.0f} images/s")
    ratios = sorted(each["folder"] / each["shards"] for each in rounds)
    print(f"shards / folder: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
