"""MobileNetV2 in each runtime, called directly as an expert user would."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.lab.benchmark.competitors.constants import SIZE
from mbv2kit.lab.benchmark.competitors.images import normalize, pixels, to_planes
from mbv2kit.lab.benchmark.workload import Workload

Run = Callable[[NDArray[Any]], object]
_Images = NDArray[np.uint8]


def onnxruntime(threads: int, batch: int, files: dict[str, str]) -> Workload:
    """ONNX Runtime on a file with float input."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(_only(files), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _calls(lambda images: session.run(None, {name: images}), batch, planes=True)


def openvino(threads: int, batch: int, inference_precision: str, files: dict[str, str]) -> Workload:
    """OpenVINO with a fixed precision; by default it computes in bfloat16 where the processor can."""
    import openvino as ov

    config = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": inference_precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(_only(files), "CPU", config).create_infer_request()
    return _calls(lambda images: request.infer([images], share_inputs=True), batch, planes=True)


def litert(threads: int, batch: int, files: dict[str, str]) -> Workload:
    """LiteRT's interpreter with XNNPACK; a file with uint8 input reads the images unchanged.

    A file for single images runs them one at a time, because XNNPACK fixes the batch size.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(_only(files), num_threads=threads)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.allocate_tensors()
    at_a_time = int(source["shape"][0])

    def run(images: NDArray[Any]) -> object:
        outputs = []
        for start in range(0, batch, at_a_time):
            interpreter.set_tensor(source["index"], images[start : start + at_a_time])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(target["index"]))
        return outputs

    return _calls(run, batch, planes=False, bytes_in=source["dtype"] == np.uint8)


def executorch(threads: int, batch: int, files: dict[str, str]) -> Workload:
    """ExecuTorch with XNNPACK."""
    import torch
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    if _threadpool_get_thread_count() != threads:
        _unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(_only(files)).load_method("forward")
    return _calls(lambda images: method.execute([torch.from_numpy(images)]), batch, planes=True)


def _only(files: dict[str, str]) -> str:
    (path,) = files.values()
    return path


def _calls(run: Run, batch: int, *, planes: bool, bytes_in: bool = False) -> Workload:
    images = pixels(batch, SIZE, SIZE)

    def prepare(images: _Images) -> NDArray[Any]:
        if bytes_in:
            return images
        return to_planes(normalize(images)) if planes else normalize(images)

    ready = prepare(images)
    calls = {"whole": lambda: run(prepare(images)), "network": lambda: run(ready)}
    return Workload(calls)
