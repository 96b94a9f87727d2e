"""Cuts the objects of a detection data set out of their images: class folders to train a classifier on.

mbv2kit cut-objects dataset=voc dataset.root=DIR output=cells
mbv2kit cut-objects dataset=coco dataset.root=DIR output=things margin=0.1
mbv2kit train task=classification dataset=folder dataset.root=cells
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.command import run_command
from mbv2kit.data.sources import SOURCES


def job(config: DictConfig) -> None:
    """Cuts both splits; what takes long to import is imported once the command line is known to be right."""
    from mbv2kit.data.cut import cut_objects
    from mbv2kit.data.sources import open_source

    dataset: dict[str, Any] = OmegaConf.to_container(config.dataset)  # type: ignore[assignment]
    for folder, split in (("train", config.dataset.train_split), ("val", config.dataset.val_split)):
        source = open_source(dataset, "detection", split)
        output = Path(config.output) / folder
        print(f"{cut_objects(source, output, config.margin)} objects of {len(source.class_names)} classes in {output}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("cut-objects", __doc__, job, argv, parts=lambda: [SOURCES])
