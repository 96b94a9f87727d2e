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
from mbv2kit.errors import first_few
from mbv2kit.texts import shown


def job(config: DictConfig) -> None:
    """Cuts both splits; what takes long to import is imported once the command line is known to be right."""
    from mbv2kit.data.cut import cut_objects
    from mbv2kit.data.sources import open_source
    from mbv2kit.files.names import safe_name

    dataset: dict[str, Any] = OmegaConf.to_container(config.dataset)  # type: ignore[assignment]
    splits = {"train": config.dataset.train_split, "val": config.dataset.val_split}
    sources = {folder: open_source(dataset, "detection", split) for folder, split in splits.items()}
    output = Path(config.output)
    for folder, count in cut_objects(sources, output, config.margin).items():
        print(f"{count} objects of {len(sources[folder].class_names)} classes in {output / folder}")
    names = dict.fromkeys(name for source in sources.values() for name in source.class_names)
    escaped = [f"'{shown(name)}' in {safe_name(name)}" for name in names if safe_name(name) != name]
    if escaped:
        print(f"classes whose names cannot be those of folders: {first_few(escaped)}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("cut-objects", __doc__, job, argv, parts=lambda: [SOURCES])
