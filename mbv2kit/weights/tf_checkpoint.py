"""Reads checkpoints of TensorFlow 1, such as ``model.ckpt.index`` with its ``.meta`` and ``.data`` files.

The graph is in the ``.meta`` file. Its variables are read by TensorFlow, in a process of its own; no other part of
mbv2kit needs it.
"""

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.weights.frozen_graph import read_graph
from mbv2kit.weights.published import Published
from mbv2kit.weights.tensorflow import publish

_INDEX, _GRAPH, _DATA = ".index", ".meta", ".data-"


def prefix_of(path: Path) -> Path | None:
    """Returns what the files of a checkpoint begin with; None if the path names none of them, nor all."""
    name = path.name
    for ending in (_INDEX, _GRAPH, _DATA):
        name = name.partition(ending)[0]
    # The current folder and the root have no name.
    return path.with_name(name) if name and path.with_name(name + _INDEX).is_file() else None


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
    if find_spec("tensorflow") is None:
        raise UserError(
            f"Reading the checkpoint {prefix} needs TensorFlow; install it with: pip install 'mbv2kit[tensorflow]', or "
            "give a frozen graph (.pb), which needs none."
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "variables.npz"
        command = [sys.executable, "-m", "mbv2kit.weights.tf_variables", str(prefix), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0 or not file.is_file():
            reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise UserError(f"{prefix} is damaged or incomplete: TensorFlow cannot read it ({reason}); fetch it again.")
        with np.load(file) as variables:
            return dict(variables)
