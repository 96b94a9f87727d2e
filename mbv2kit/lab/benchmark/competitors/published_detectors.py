"""The networks of published detectors in the programs that they were made for, from float input to codes and logits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mbv2kit.lab.benchmark.worker_process import time_calls
from mbv2kit.lab.benchmark.workload import Workload

# Height and width to which the frozen graph resizes images.
_SIZE = (300, 300)
# Seconds to try an engine.
_TRIAL = 0.2


def litert(threads: int, path: str) -> Workload:
    """LiteRT's interpreter with XNNPACK on a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    targets = [target["index"] for target in interpreter.get_output_details()]
    images = np.zeros(source["shape"], dtype=np.float32)

    def network() -> object:
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(target) for target in targets]

    return Workload({"network": network})


def opencv(threads: int, path: str) -> Workload:
    """OpenCV's dnn module on a frozen graph of the Object Detection API, in the fastest of its engines."""
    import cv2

    cv2.setNumThreads(threads)
    graph = np.frombuffer(_network_alone(Path(path)), dtype=np.uint8)
    images = np.zeros((1, 3, *_SIZE), dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    for engine in ("ENGINE_CLASSIC", "ENGINE_NEW", "ENGINE_ORT"):
        net = cv2.dnn.readNetFromTensorflow(graph, engine=getattr(cv2.dnn, engine))
        net.setInput(images)
        calls[engine] = partial(net.forward, net.getUnconnectedOutLayersNames())
    fastest = min(calls, key=lambda engine: min(time_calls(calls[engine], _TRIAL)))
    return Workload({"network": calls[fastest]}, {"engine": fastest})


def _network_alone(path: Path) -> bytes:
    """Returns a graph's part from the first convolution to the predictors.

    OpenCV's importer fails at the graph's own preprocessing, anchors and NMS.
    """
    from mbv2kit.weights.graphdef import messages

    graph = messages()["GraphDef"].FromString(path.read_bytes())
    nodes: dict[str, Any] = {node.name: node for node in graph.node}
    image = next(node.input[0] for node in graph.node if node.op == "Conv2D")
    wanted = [node.name for node in graph.node if node.op == "BiasAdd" and node.name.startswith("BoxPredictor")]
    kept = {image}
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept.add(name)
            wanted += nodes[name].input
    part = messages()["GraphDef"]()
    for node in graph.node:
        if node.name == image:
            placeholder = part.node.add(name=image, op="Placeholder")
            placeholder.attr.add(key="dtype", value=messages()["Value"](type=1))
        elif node.name in kept:
            part.node.append(node)
    content: bytes = part.SerializeToString()
    return content
