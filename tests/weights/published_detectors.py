"""Scores published detectors and the programs that they were made for on the same images, and prints the differences.

python -m tests.weights.published_detectors SHARED/data            # the Open Images detector in LiteRT
python -m tests.weights.published_detectors SHARED/data tensorflow # the pedestrian detector in TensorFlow
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv2kit import load
from mbv2kit.data.align import align_classes
from mbv2kit.data.sources import Source, open_source
from mbv2kit.evaluation import create_evaluator
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.inference.predictor import Predictor
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Detections, Image
from mbv2kit.weights.open import open_model
from tests.weights.overlaps import overlaps
from tests.weights.tensorflow_runner import run_graph

Detect = Callable[[Image], Detections]
NMS = NmsOptions(score_threshold=1e-3, nms_iou=0.6, max_detections=100)
SURE = 0.3


def open_images(data: Path) -> Source:
    """Opens the images that both are scored on."""
    return open_source({"name": "coco", "root": str(data / "coco_mini")}, "detection", "val2017")


def compare(data: Path, predictor: Predictor, ours: Detect, theirs: Detect) -> None:
    """Prints the AP of both, and how far apart the boxes of a score of at least 0.3 are."""
    names = predictor.class_names["detection"]
    source = align_classes(open_images(data), names, leave_out=True)
    scorers = [create_evaluator("detection", names) for _ in range(2)]
    count, least, furthest, edges = 0, 1.0, 0.0, 0.0
    for index in range(len(source)):
        sample = source[index]
        found = [detect(sample.image) for detect in (ours, theirs)]
        for scorer, each in zip(scorers, found, strict=True):
            scorer.update(each, sample)
        boxes, wanted = (each.boxes.astype(np.float64) for each in found)
        for box, class_id, score in zip(wanted, found[1].class_ids, found[1].scores, strict=True):
            if score >= SURE:
                shared = overlaps(box, boxes) * (found[0].class_ids == class_id)
                best = int(shared.argmax())
                count, least = count + 1, min(least, float(shared[best]))
                furthest = max(furthest, abs(float(found[0].scores[best] - score)))
                edges = max(edges, float(np.abs(boxes[best] - box).max()))
    aps = [scorer.compute().metrics["AP"] for scorer in scorers]
    print(f"AP {aps[0]:.6f} here, {aps[1]:.6f} there")
    print(f"{count} boxes: IoU {least:.6f} at least, edges {edges:.1e} pixels and scores {furthest:.1e} apart")


class InLiteRT:
    """LiteRT's detections: its codes and logits, decoded and suppressed as here.

    Attributes:
        furthest: The largest difference between its codes and logits and this package's for the same pixels, so far.
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        (image,) = self._interpreter.get_input_details()
        self._image, self._predictor = image["index"], predictor
        self._places = {detail["name"]: detail["index"] for detail in self._interpreter.get_output_details()}
        self._model = open_model(str(path))[0].eval()
        self.furthest = 0.0

    def __call__(self, image: Image) -> Detections:
        pixels, placement = self._predictor.preprocess(image)
        with torch.inference_mode():
            raw = self._model(images_to_tensor([pixels]))["detection"]
        theirs = dict(zip(("box_codes", "class_logits"), self._outputs(pixels), strict=True))
        self.furthest = max(self.furthest, *(float((raw[name] - theirs[name]).abs().max()) for name in theirs))
        head = self._model.heads["detection"]
        outputs = head.outputs(theirs | {"anchors": raw["anchors"]}, self._predictor.preprocess.size)
        return _restored(outputs["boxes"][0].numpy(), outputs["scores"][0].numpy(), self._predictor, placement)

    def _outputs(self, pixels: Image) -> tuple[Tensor, Tensor]:
        self._interpreter.set_tensor(self._image, (pixels[None].astype(np.float32) - 127.5) / 127.5)
        self._interpreter.invoke()
        codes, logits = (
            torch.from_numpy(self._interpreter.get_tensor(self._places[f"raw_outputs/{name}"]))
            for name in ("box_encodings", "class_predictions")
        )
        return codes[..., [1, 0, 3, 2]], logits


def in_tensorflow(path: Path, images: Sequence[Image]) -> Detect:
    """Returns TensorFlow's detections in some images, decoded and suppressed by the graph, one after the other."""
    names = [f"detection_{name}" for name in ("boxes", "scores", "classes")] + ["num_detections"]
    answers = iter(run_graph(path, "image_tensor", images, names))

    def detect(image: Image) -> Detections:
        boxes, scores, classes, number = next(answers)
        height, width = image.shape[:2]
        count = int(number)
        pixels = boxes[:count, [1, 0, 3, 2]] * np.array([width, height, width, height], dtype=np.float32)
        return Detections(pixels, classes[:count].astype(np.int64) - 1, scores[:count])

    return detect


def _restored(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], predictor: Predictor, placement: Any
) -> Detections:
    restored = placement.restore(NMS(boxes, scores, predictor.preprocess.size))
    assert isinstance(restored, Detections)
    return restored


def main(data: Path, wanted: str = "litert") -> None:
    """Compares one of the two detectors."""
    weights = data / "weights"
    pedestrians = wanted == "tensorflow"
    path = weights / ("ssdlite_mobilenet_v2_pedestrian.pb" if pedestrians else "ssd_mobilenet_v2_oidv4_fp16.tflite")
    predictor = load(path, class_names=None if pedestrians else weights / "oidv4_labels.txt")
    if pedestrians:
        predictor.spec = replace(predictor.spec, class_names={"detection": ("person",)})
    theirs: Detect
    if pedestrians:
        source = open_images(data)
        theirs = in_tensorflow(path, [source[index].image for index in range(len(source))])
    else:
        theirs = InLiteRT(path, predictor)

    def ours(image: Image) -> Detections:
        pixels, placement = predictor.preprocess(image)
        outputs = predictor.outputs(pixels[None])
        if pedestrians:
            found = predictor.postprocess(outputs, [placement])[0]["detection"]
            assert isinstance(found, Detections)
            return found
        return _restored(outputs["boxes"][0], outputs["scores"][0], predictor, placement)

    compare(data, predictor, ours, theirs)
    if isinstance(theirs, InLiteRT):
        print(f"codes and logits: {theirs.furthest:.1e} apart")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
