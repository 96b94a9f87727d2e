"""Whether an exported file answers as the model does, on real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from mbv2kit.heads import Head
from mbv2kit.imaging.postprocess import DETECTIONS, Outputs, postprocess
from mbv2kit.inference.deployed import DeployedModel
from mbv2kit.models.exports import Export, Precision
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Detections, Image, Task

# What a file in float32 must keep to. Half floats and int8 are judged by accuracy; these only tell a broken file.
TOP1_SHARE = {"fp32": 1.0, "fp16": 0.9, "int8": 0.5}
BOX_PIXELS = {"fp32": 0.5, "fp16": float("inf"), "int8": float("inf")}
MASK_SHARE = {"fp32": 0.999, "fp16": 0.95, "int8": 0.5}
# Two boxes that overlap just as much as suppression allows may come out either way.
_MISSING_SHARE = 0.01
# Pixels beyond which a box is another one.
_SAME_BOX = 8.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a comparison.

    Attributes:
        what: Was compared.
        value: Was found.
        limit: What it may be, in words; empty where nothing is asked of it.
        kept: Whether it is within the limit.
    """

    what: str
    value: str
    limit: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Timed:
    """Answers to some images, each seen by itself, and the median milliseconds that one took."""

    outputs: list[Outputs]
    milliseconds: float


def reference(model: VisionModel, inputs: Sequence[Image], size: tuple[int, int]) -> Timed:
    """Has the model itself answer, unfolded and in eager mode, as in training and evaluation."""

    @torch.inference_mode()
    def each(images: NDArray[np.uint8]) -> Outputs:
        raw = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        outputs: dict[str, NDArray[np.generic]] = {}
        for head in model.heads.values():
            assert isinstance(head, Head)
            found = head.outputs(raw[head.task], size)
            outputs |= {name: tensor.numpy() for name, tensor in found.items()}
        return outputs

    return outputs_of_each(each, inputs)


def outputs_of_each(each: Callable[[NDArray[np.uint8]], Outputs], inputs: Sequence[Image]) -> Timed:
    """Has something answer image by image; the first one is seen twice, since it also warms up."""
    each(inputs[0][None])
    outputs, times = [], []
    for image in inputs:
        start = perf_counter()
        outputs.append(each(image[None]))
        times.append(1000 * (perf_counter() - start))
    return Timed(outputs, median(times))


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        findings: Line by line.
        milliseconds: Of an image in the file's runtime, and in PyTorch.
        agrees: Whether the file answers as the model does.
    """

    findings: list[Finding]
    milliseconds: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether every finding is within its limit."""
        return all(finding.kept for finding in self.findings)


def check(model: VisionModel, exported: DeployedModel, export: Export, inputs: Sequence[Image]) -> Report:
    """Has a model and a file that it was exported to answer the same inputs, and compares.

    Args:
        model: In evaluation mode.
        exported: The file, open.
        export: What the file is; its precision decides how much may differ.
        inputs: ``(H, W, 3)`` uint8 of the export's size.
    """
    expected, found = reference(model, inputs, export.size), outputs_of_each(exported.outputs, inputs)
    findings = []
    for task in model.spec.heads:
        findings += compare(task, expected.outputs, found.outputs, export)
    return Report(findings, (found.milliseconds, expected.milliseconds))


def compare(task: Task, expected: Sequence[Outputs], found: Sequence[Outputs], export: Export) -> list[Finding]:
    """Compares what a file answered with what the model did.

    Args:
        task: Which answers to compare.
        expected: Of the model, for each image.
        found: Of the file.
        export: The file; its precision decides how much may differ.
    """
    if task == "classification":
        return _compare_classes(expected, found, export.precision)
    if task == "segmentation":
        return _compare_masks(expected, found, export.precision)
    if DETECTIONS in export.outputs:
        return _compare_detections(expected, found, export)
    return _compare_boxes(expected, found, export)


def _compare_classes(expected: Sequence[Outputs], found: Sequence[Outputs], precision: Precision) -> list[Finding]:
    ours = np.concatenate([each["probabilities"] for each in expected])
    theirs = np.concatenate([each["probabilities"] for each in found])
    same = int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    least = TOP1_SHARE[precision]
    return [
        Finding("largest difference of a probability", f"{np.abs(ours - theirs).max():.2g}"),
        Finding("same first class", f"{same} of {len(ours)}", _at_least(least), same >= least * len(ours)),
    ]


def _compare_boxes(expected: Sequence[Outputs], found: Sequence[Outputs], export: Export) -> list[Finding]:
    """Compares all boxes that may be shown, before suppression, which may turn a hair's breadth into a missing box."""
    assert export.nms_options is not None
    shifts, scores = [], 0.0
    for ours, theirs in zip(expected, found, strict=True):
        shown = ours["scores"].max(axis=2) > export.nms_options.score_threshold
        scores = max(scores, float(np.abs(ours["scores"] - theirs["scores"]).max()))
        moved = np.abs(np.clip(ours["boxes"], 0, 1) - np.clip(theirs["boxes"], 0, 1))[shown] * _limits(export)
        shifts.append(moved.max(axis=1, initial=0.0))
    pixels = np.concatenate(shifts)
    within = f"{(pixels <= BOX_PIXELS['fp32']).mean():.3%}" if len(pixels) else "no box"
    return [
        Finding("largest difference of a score", f"{scores:.2g}"),
        Finding(f"boxes within {BOX_PIXELS['fp32']} pixels", within),
        _shift(f"largest shift of {len(pixels):,} boxes, pixels", float(pixels.max(initial=0.0)), export.precision),
    ]


def _compare_detections(expected: Sequence[Outputs], found: Sequence[Outputs], export: Export) -> list[Finding]:
    """Compares the boxes that are shown; each of the model's looks for the nearest of the file's of its class."""
    total, missing, pixels, scores = 0, 0, 0.0, 0.0
    for ours, theirs in zip(expected, found, strict=True):
        (wanted,) = postprocess("detection", ours, export.size, export.nms_options)
        (seen,) = postprocess("detection", theirs, export.size, export.nms_options)
        assert isinstance(wanted, Detections)
        assert isinstance(seen, Detections)
        for box, class_id, score in zip(wanted.boxes, wanted.class_ids, wanted.scores, strict=True):
            same = seen.class_ids == class_id
            distances = np.abs(seen.boxes[same] - box).max(axis=1, initial=0.0)
            total += 1
            if not len(distances) or distances.min() > _SAME_BOX:
                missing += 1
                continue
            pixels = max(pixels, float(distances.min()))
            scores = max(scores, abs(float(seen.scores[same][distances.argmin()] - score)))
    most = _MISSING_SHARE * total
    return [
        Finding(f"boxes missing of {total:,}", str(missing), f"at most {_MISSING_SHARE:.0%}", missing <= most),
        Finding("largest difference of a score", f"{scores:.2g}"),
        _shift("largest shift of the others, pixels", pixels, export.precision),
    ]


def _shift(what: str, pixels: float, precision: Precision) -> Finding:
    most = BOX_PIXELS[precision]
    return Finding(what, f"{pixels:.2g}", f"at most {most:g}" if np.isfinite(most) else "", pixels <= most)


def _limits(export: Export) -> NDArray[np.float32]:
    height, width = export.size
    return np.array([width, height, width, height], dtype=np.float32)


def _compare_masks(expected: Sequence[Outputs], found: Sequence[Outputs], precision: Precision) -> list[Finding]:
    shares = [float((ours["mask"] == theirs["mask"]).mean()) for ours, theirs in zip(expected, found, strict=True)]
    mean, least = float(np.mean(shares)), MASK_SHARE[precision]
    return [
        Finding("equal pixels", f"{mean:.3%}", _at_least(least), mean >= least),
        Finding("equal pixels in the worst image", f"{min(shares):.3%}"),
    ]


def _at_least(share: float) -> str:
    return "all" if share == 1 else f"at least {share:.1%}"
