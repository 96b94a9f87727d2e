"""Trains three heads on one backbone and three networks of one head each, with the same steps, and prints the metrics.

python -m tests.training.several_heads FOLDER 0 1 2                the seeds
python -m tests.training.several_heads FOLDER 0 together           one of the four networks alone
python -m tests.training.several_heads FOLDER 0 together loss_weights=uncertainty
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import mbv2kit
from mbv2kit.cli.config import compose_config, conf_folder, register_parts
from mbv2kit.structures import TASKS
from mbv2kit.training.parts import training_parts

METRICS = ("top1", "AP", "AP50", "mIoU")
NETWORKS = ("together", *TASKS)


def keys_of(network: str) -> dict[str, Any]:
    """Returns the keys of one network: those of experiment=shapes/multitask, for all heads or for one of them."""
    register_parts(conf_folder(), training_parts())
    config: Any = compose_config(conf_folder(), "train", ["experiment=shapes/multitask"])
    shared = {
        key: dict(config[key]) for key in ("dataset", "backbone", "input", "augment", "optimizer", "scheduler", "ema")
    }
    shared["augment"] = {"name" if key == "preset" else key: value for key, value in shared["augment"].items()}
    keys = {**shared, "loader.batch_size": config.loader.batch_size, "trainer.max_epochs": config.trainer.max_epochs}
    if network == "together":
        return {"experiment": "shapes/multitask"}
    return {"task": network, **keys, "head": dict(config.heads[network])}


def run(folder: Path, network: str, seed: int, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Trains a network, unless its folder has metrics already, and returns them."""
    name = "_".join([network, str(seed), *(override.replace("=", "-") for override in overrides)])
    path = folder / name
    if not (path / "metrics.json").is_file():
        more = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in overrides)}
        mbv2kit.train(**{**keys_of(network), **more, "seed": seed, "run_dir": str(path), "export": False})
    content = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    return {name: content["metrics"][name] for name in METRICS if name in content["metrics"]}


def main(arguments: Sequence[str]) -> None:
    """Prints the metrics of each run."""
    folder, *rest = arguments
    seeds = [int(each) for each in rest if each.isdecimal()]
    networks = [each for each in rest if each in NETWORKS] or NETWORKS
    overrides = [each for each in rest if "=" in each]
    for seed in seeds:
        for network in networks:
            print(network, seed, *overrides, run(Path(folder), network, seed, overrides), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
