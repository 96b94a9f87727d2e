"""Detectors of torchvision and ultralytics, from the pixels of an image to the boxes after NMS."""

from typing import Any

import numpy as np
import torch

from mbv2kit.lab.benchmark.competitors.images import pixels
from mbv2kit.lab.benchmark.competitors.scores import detector_scores
from mbv2kit.lab.benchmark.workload import Workload

SIZE = 320


def torchvision(threads: int, score_threshold: float) -> Workload:
    """``ssdlite320_mobilenet_v3_large`` in eager mode, with the scores of a trained detector."""
    import torchvision

    torch.set_num_threads(threads)
    model: Any = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights_backbone=None, score_thresh=score_threshold
    ).eval()
    image = pixels(1, SIZE, SIZE)[0]

    @torch.inference_mode()
    def whole() -> Any:
        return model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]

    _give_scores(model)
    return Workload({"whole": whole}, {"boxes": len(whole()["boxes"])})


def _give_scores(model: Any) -> None:
    """Makes the head compute its logits but return others, whose softmax is :func:`detector_scores`."""
    shape = []

    def note(_module: object, _inputs: object, outputs: dict[str, Any]) -> None:
        shape.append(outputs["cls_logits"].shape)

    with torch.inference_mode(), model.head.register_forward_hook(note):
        model([torch.zeros(3, SIZE, SIZE)])
    _, anchors, classes = shape[0]
    scores = detector_scores(anchors, classes - 1)
    background = np.maximum(1e-6, 1 - scores.sum(axis=1, keepdims=True))
    logits = torch.from_numpy(np.log(np.concatenate([background, scores], axis=1)))[None]
    model.head.register_forward_hook(lambda _module, _inputs, outputs: {**outputs, "cls_logits": logits})


def ultralytics(threads: int, score_threshold: float) -> Workload:
    """The ``predict`` method of YOLO11n on an array.

    Random weights detect nothing, so NMS costs less than in real use.
    """
    from ultralytics import YOLO

    torch.set_num_threads(threads)
    model = YOLO("yolo11n.yaml")
    image = np.ascontiguousarray(pixels(1, SIZE, SIZE)[0])

    def whole() -> Any:
        return model.predict(image, imgsz=SIZE, conf=score_threshold, device="cpu", verbose=False)[0]

    return Workload({"whole": whole}, {"boxes": len(whole().boxes)})


def onnxruntime_network(threads: int, files: dict[str, str]) -> Workload:
    """The network of torchvision's detector in ONNX Runtime: float input, no decoding of boxes, no NMS."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    (path,) = files.values()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.zeros((1, 3, SIZE, SIZE), dtype=np.float32)
    name = session.get_inputs()[0].name
    return Workload({"network": lambda: session.run(None, {name: images})})
