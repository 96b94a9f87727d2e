"""Writes a data set as shards: tars that are read nearly in sequence, from a disk, a web server or an object store.

mbv2kit make-shards dataset=imagenet dataset.root=DIR output=shards
mbv2kit make-shards dataset=coco dataset.root=DIR tasks=[detection,segmentation] output=shards images_per_shard=2000
mbv2kit train task=classification dataset=shards dataset.root=s3://BUCKET/shards
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.command import run_command
from mbv2kit.data.sources import SOURCES


def job(config: DictConfig) -> None:
    """Writes both splits; what takes long to import is imported once the command line is known to be right."""
    from mbv2kit.data.joined import open_joined
    from mbv2kit.data.sharding.run import make_shards
    from mbv2kit.structures import TASKS, Task

    dataset: dict[str, Any] = OmegaConf.to_container(config.dataset)  # type: ignore[assignment]
    provided = SOURCES.get_class(dataset["name"]).provides
    tasks: dict[str, Task] = {
        task: task for task in TASKS if task in (provided if config.tasks is None else config.tasks)
    }
    splits = dict.fromkeys(dataset[key] for key in ("train_split", "val_split"))
    written = make_shards(
        {split: open_joined(dict.fromkeys(tasks, dataset), tasks, "train_split", split) for split in splits},
        Path(config.output),
        shuffled=[dataset["train_split"]] if config.shuffle else [],
        seed=config.seed,
        images_per_shard=config.images_per_shard,
        workers=(os.cpu_count() or 1) if config.workers is None else config.workers,
    )
    for split, images in written.images.items():
        print(f"{split}: {images} images in {written.shards[split]} shards, for {', '.join(tasks)}")
    shards = sum(written.shards.values())
    print(f"{written.new} of {shards} shards are new; {written.size / 1e6:,.1f} MB in {config.output}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("make-shards", __doc__, job, argv, parts=lambda: [SOURCES], extra="shards")
