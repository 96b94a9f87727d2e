"""Reads checkpoints of TensorFlow 1, such as ``model.ckpt.index`` with its ``.meta`` and ``.data`` files.

The graph is in the ``.meta`` file. Its variables are read by TensorFlow, which no other part of mbv2kit needs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line
from mbv2kit.weights.frozen_graph import read_graph
from mbv2kit.weights.published import Published
from mbv2kit.weights.tensorflow import publish

_INDEX, _GRAPH, _DATA = ".index", ".meta", ".data-"


def prefix_of(path: Path) -> Path | None:
    """Returns what the files of a checkpoint begin with; None if the path names none of them, nor all."""
    name = path.name
    for ending in (_INDEX, _GRAPH, _DATA):
        if ending in name:
            name = name.partition(ending)[0]
    prefix = path.with_name(name) if name else path
    return prefix if prefix.with_name(prefix.name + _INDEX).is_file() else None


def read(prefix: Path, source: str) -> Published:
    """Reads a checkpoint with its graph.

    Args:
        prefix: What its files begin with, such as ``model.ckpt``.
        source: Name of the source in ``model.json``.

    Raises:
        UserError: TensorFlow is not installed, a file is missing or damaged, or the network is unknown.
    """
    graph = prefix.with_name(prefix.name + _GRAPH)
    if not graph.is_file():
        index = f"{prefix.name}{_INDEX}"
        raise UserError(f"{prefix}: {graph.name} is missing, which holds the graph; put it next to {index}.")
    return publish(read_graph(graph, _variables(prefix)), graph, source, format="TensorFlow, checkpoint")


def _variables(prefix: Path) -> Mapping[str, NDArray[Any]]:
    try:
        from tensorflow import train
    except ImportError:
        raise UserError(
            f"Reading the checkpoint {prefix} needs TensorFlow; install it with: pip install 'mbv2kit[tensorflow]', or "
            "give a frozen graph (.pb), which needs none."
        ) from None
    try:
        reader = train.load_checkpoint(str(prefix))
        names = [name for name, kind in reader.get_variable_to_dtype_map().items() if kind.is_floating]
        return {name: np.asarray(reader.get_tensor(name), dtype=np.float32) for name in names}
    # A damaged file may make TensorFlow raise any of its own errors.
    except Exception as error:
        raise UserError(f"{prefix} is damaged or incomplete ({one_line(error)}); fetch it again.") from None
