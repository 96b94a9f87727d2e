"""The peak rate of the machine, measured by large matrix products."""

from typing import Any

import numpy as np

from mbv2kit.lab.benchmark.competitors.constants import PRODUCT_SIDE as SIDE
from mbv2kit.lab.benchmark.workload import Workload


def numpy(threads: int) -> Workload:
    """NumPy at float32, on all cores that the process may use."""
    a, b = _floats(), _floats()
    out = np.empty_like(a)
    return Workload({"whole": lambda: np.matmul(a, b, out=out)})


def torch(threads: int, dtype: str) -> Workload:
    """PyTorch at ``float32``, ``bfloat16`` or ``int8`` with int32 sums."""
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(_floats() * 8).to(getattr(torch, dtype)) for _ in range(2))
    product = torch._int_mm if dtype == "int8" else torch.mm
    return Workload({"whole": lambda: product(a, b)})


def onnxruntime(threads: int, dtype: str) -> Workload:
    """ONNX Runtime at ``float32`` or ``int8``: uint8 times int8 with int32 sums."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    kinds = (TensorProto.FLOAT,) * 3 if dtype == "float32" else (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)
    a = _floats() if dtype == "float32" else (_floats() * 64 + 128).astype(np.uint8)
    b = _floats() if dtype == "float32" else (_floats() * 64).astype(np.int8)
    shape = [SIDE, SIDE]
    node = helper.make_node("MatMul" if dtype == "float32" else "MatMulInteger", ["a", "b"], ["c"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", kinds[0], shape)],
        [helper.make_tensor_value_info("c", kinds[2], shape)],
        [helper.make_tensor("b", kinds[1], shape, b.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Workload({"whole": lambda: session.run(None, {"a": a})})


def openvino(threads: int, dtype: str) -> Workload:
    """OpenVINO at ``f32``, ``bf16`` or ``int8``, where each call quantizes one of the matrices."""
    import openvino as ov
    from openvino import opset13 as ops

    a, b = _floats(), _floats()
    source = ops.parameter([SIDE, SIDE], np.float32)
    left, right = source, ops.constant(b)
    if dtype == "int8":
        left, right = (ops.fake_quantize(each, -4.0, 4.0, -4.0, 4.0, 255) for each in (left, right))
    model = ov.Model([ops.matmul(left, right, False, False)], [source])
    hint = "f32" if dtype == "int8" else dtype
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", config).create_infer_request()
    return Workload({"whole": lambda: request.infer([a], share_inputs=True)})


def _floats() -> Any:
    return np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
