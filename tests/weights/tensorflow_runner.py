"""Runs TensorFlow as a process of its own, because it and torch may crash each other within one.

python -m tests.weights.tensorflow_runner run GRAPH IMAGE_TENSOR IMAGES OUTPUT TENSOR...
python -m tests.weights.tensorflow_runner checkpoint GRAPH PREFIX
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]


def run_graph(
    graph: Path, image_tensor: str, images: Sequence[NDArray[Any]], outputs: Sequence[str]
) -> list[list[NDArray[np.float32]]]:
    """Returns the outputs of a frozen graph for each image, without the dimension of the batch."""
    with TemporaryDirectory() as folder:
        given, found = Path(folder) / "images.npz", Path(folder) / "outputs.npz"
        np.savez(given, *images)
        start("run", str(graph), image_tensor, str(given), str(found), *outputs)
        with np.load(found) as arrays:
            return [[arrays[f"{index}_{place}"] for place in range(len(outputs))] for index in range(len(images))]


def start(*arguments: str) -> None:
    """Runs this file in a new process."""
    subprocess.run([sys.executable, "-m", "tests.weights.tensorflow_runner", *arguments], cwd=ROOT, check=True)


def _run(graph: str, image_tensor: str, images: str, output: str, *names: str) -> None:
    import tensorflow

    tf: Any = tensorflow.compat.v1
    graph_def = tf.GraphDef()
    graph_def.ParseFromString(Path(graph).read_bytes())
    found: dict[str, NDArray[np.float32]] = {}
    with tensorflow.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(graph_def, name="")
        with np.load(images) as arrays:
            for index, name in enumerate(arrays.files):
                values = session.run([f"{each}:0" for each in names], {f"{image_tensor}:0": arrays[name][None]})
                found |= {f"{index}_{place}": value[0] for place, value in enumerate(values)}
    np.savez(output, **cast(Any, found))


def _checkpoint(graph: str, prefix: str) -> None:
    """Writes a frozen graph as a checkpoint, with variables for its weights."""
    import tensorflow

    tf: Any = tensorflow.compat.v1
    frozen, rest = tf.GraphDef(), tf.GraphDef()
    frozen.ParseFromString(Path(graph).read_bytes())
    weights = {node.name: node for node in frozen.node if node.op == "Const" and node.name.endswith("/weights")}
    rest.node.extend(node for node in frozen.node if node.name not in weights)
    with tensorflow.Graph().as_default(), tf.Session() as session:
        variables = {}
        for name, node in weights.items():
            value = tensorflow.make_ndarray(node.attr["value"].tensor)
            variable = tf.get_variable(name, initializer=value, use_resource=False)
            variables[f"{name}:0"] = tensorflow.convert_to_tensor(variable)
        tf.import_graph_def(rest, input_map=variables, name="")
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, prefix)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        _run(*sys.argv[2:])
    else:
        _checkpoint(*sys.argv[2:])
