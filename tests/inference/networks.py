"""Exported networks of a few nodes, in model folders."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper, save_model

from mbv2kit.imaging.preprocess import Preprocess, Resize
from mbv2kit.models.exports import Export, hash_of
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.spec import ModelSpec


def save_shares(
    folder: Path,
    *last: NodeProto,
    side: int = 8,
    resize: Resize = "stretch",
    names: tuple[str, ...] = ("red", "green", "blue"),
) -> Path:
    """Saves a classifier whose probabilities are the shares of red, green and blue.

    Args:
        folder: The model folder.
        last: Nodes that compute ``probabilities`` from ``shares`` in another way, or ``shares`` unchanged.
        side: Side of the input that the file takes; model.json says 8.
        resize: How an image becomes the input.
        names: Names of the classes.
    """
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["values", "sides"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["sums", "colors"], ["sum"], keepdims=1),
        helper.make_node("Div", ["sums", "sum"], ["shares"]),
        *(last or [helper.make_node("Identity", ["shares"], ["probabilities"])]),
    ]
    graph = helper.make_graph(
        nodes,
        "shares",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("sides", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("colors", TensorProto.INT64, [1], [1]),
        ],
    )
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2"},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": names},
        input=Preprocess((8, 8), resize),
    )
    return _save(folder, graph, spec, None, "probabilities")


def save_detector(folder: Path, rows: Sequence[tuple[float, ...]], side: int = 64) -> Path:
    """Saves a detector of the classes ``cell`` and ``worm`` that finds the same in every image.

    Args:
        folder: The model folder.
        rows: The objects, best first: x1, y1, x2, y2 in pixels of the input, score and class.
        side: Side of the input, to which an image is stretched.
    """
    graph = helper.make_graph(
        [helper.make_node("Identity", ["rows"], ["detections"])],
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, side, side, 3])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(rows, dtype=np.float32).reshape(1, -1, 6), "rows")],
    )
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2"},
        heads={"detection": {"name": "ssdlite"}},
        class_names={"detection": ("cell", "worm")},
        input=Preprocess((side, side)),
    )
    return _save(folder, graph, spec, 1, "detections")


def _save(folder: Path, graph: GraphProto, spec: ModelSpec, batch: int | None, output: str) -> Path:
    with TemporaryDirectory() as name:
        file = Path(name) / "model.onnx"
        save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
        export = Export(
            file=file.name,
            format="onnx",
            precision="fp32",
            size=spec.input.size,
            batch=batch,
            outputs=(output,),
            nms_options={},
            sha256=hash_of(file),
        )
        ModelFolder(folder).describe(spec)
        ModelFolder(folder).add_export(export, file.parent)
    return folder
