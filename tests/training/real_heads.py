"""Trains one network on cells, streets and photographs, and a network of its own for each on as many images.

python -m tests.training.real_heads SHARED/data FOLDER                             all of them
python -m tests.training.real_heads SHARED/data FOLDER together loader.mixed=false one of them, with keys

The photographs are the ImageNet samples, sorted into dogs, other animals and things; every third is for validation.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

import yaml

import mbv2kit
from mbv2kit.structures import TASKS

METRICS = ("top1", "AP", "AP50", "mIoU")
# Images of each data set in a step.
SHARE = 8
# Every network takes 315 to 325 steps in that many epochs.
EPOCHS = {"together": 7, "classification": 20, "detection": 13, "segmentation": 7}
HEADS: dict[str, dict[str, Any]] = {
    "classification": {"name": "classifier"},
    "detection": {
        "name": "ssdlite",
        "maps": ["layer_8_expansion", "layer_15_expansion", "layer_19"],
        "anchors": "uniform",
        "min_scale": 0.08,
        "norm_momentum": 0.1,
    },
    "segmentation": {
        "name": "deeplab_v3",
        "norm_momentum": 0.1,
        "class_weights": [1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 3.0, 1.5, 1.5, 3.0, 2.0],
    },
}
SHARED: dict[str, Any] = {
    "backbone.norm_momentum": 0.1,
    "input": {"size": [288, 384], "resize": "letterbox"},
    "augment": {"name": "multitask", "scale": [0.7, 1.4]},
    "optimizer.lr": 2e-3,
    "ema.decay": 0.98,
    "export": False,
}
# Dogs are classes 151 to 268 of ImageNet, all animals 0 to 397.
_DOGS, _ANIMALS = range(151, 269), range(398)


def photographs(data: Path, folder: Path) -> Path:
    """Sorts the ImageNet samples into class folders, and returns the folder."""
    lines = (data / "imagenet_samples" / "synsets.txt").read_text(encoding="utf-8").splitlines()
    numbers = {line.split("\t")[0]: number for number, line in enumerate(lines)}
    for place, path in enumerate(sorted((data / "imagenet_samples" / "val").glob("*/*"))):
        number = numbers[path.parent.name]
        kind = "dog" if number in _DOGS else "animal" if number in _ANIMALS else "thing"
        target = folder / ("val" if place % 3 == 2 else "train") / kind / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, target)
    return folder


def keys_of(network: str, data: Path, photos: Path) -> dict[str, Any]:
    """Returns the keys of one network."""
    datasets: dict[str, dict[str, Any]] = {
        "classification": {"name": "folder", "root": str(photos)},
        "detection": {"name": "voc", "root": str(data / "bccd")},
        "segmentation": {"name": "voc", "root": str(data / "camvid")},
    }
    keys = SHARED | {
        "weights": str(data / "weights" / "mobilenet_v2_1.0_224_quant.tflite"),
        "trainer": {"max_epochs": EPOCHS[network], "val_every_n_epochs": EPOCHS[network]},
    }
    if network != "together":
        own = {"task": network, "dataset": datasets[network], "head": HEADS[network]}
        return {**own, **keys, "loader.batch_size": SHARE}
    several = {"task": "multitask", "dataset": "shapes", "datasets": datasets, "heads": HEADS}
    return {**several, **keys, "loader.batch_size": 3 * SHARE}


def run(data: Path, folder: Path, network: str, keys: Sequence[str]) -> dict[str, float]:
    """Trains a network, unless its folder has metrics already, and returns them."""
    photos = folder / "photographs"
    if not photos.is_dir():
        photographs(data, photos)
    path = folder / "_".join([network, *(key.replace("=", "-") for key in keys)])
    if not (path / "metrics.json").is_file():
        more = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in keys)}
        mbv2kit.train(**{**keys_of(network, data, photos), **more, "run_dir": str(path)})
    content = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    return {name: content["metrics"][name] for name in METRICS if name in content["metrics"]}


def main(arguments: Sequence[str]) -> None:
    """Prints the metrics of each network."""
    data, folder, *rest = arguments
    keys = [each for each in rest if "=" in each]
    for network in [each for each in rest if each in EPOCHS] or ["together", *TASKS]:
        print(network, *keys, run(Path(data), Path(folder), network, keys), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
