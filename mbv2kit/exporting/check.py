"""Checks that the outputs of an exported file equal those of its model, on real images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.postprocess import DETECTIONS, NmsOptions, Outputs, output_name, outputs_of, postprocess
from mbv2kit.inference.predictor import Predictor
from mbv2kit.models.exports import Export, Precision
from mbv2kit.models.model_session import ModelSession
from mbv2kit.models.session import Session
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS, Detections, Image, Task

# Limits of a file in float32. Accuracy decides about fp16 and int8; their limits only reject a broken file.
TOP1_SHARE = {"fp32": 1.0, "fp16": 0.9, "int8": 0.5}
BOX_PIXELS = {"fp32": 0.5, "fp16": float("inf"), "int8": float("inf")}
MASK_SHARE = {"fp32": 0.999, "fp16": 0.95, "int8": 0.5}
# Two boxes that overlap exactly as much as NMS allows may come out either way.
_MISSING_SHARE = 0.01
# Boxes farther apart than this, in pixels, are different boxes.
_SAME_BOX = 8.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a comparison.

    Attributes:
        what: The quantity that is compared.
        value: Its value.
        limit: Its limit; empty if there is none.
        kept: Whether the value is within the limit.
    """

    what: str
    value: str
    limit: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Timed:
    """Outputs for some images, each run by itself, and the shortest time of an image in milliseconds."""

    outputs: list[Outputs]
    milliseconds: float


def reference(model: VisionModel, inputs: Sequence[Image]) -> Timed:
    """Runs the model itself, unfolded and in eager mode, as in training and evaluation."""
    return run_each(ModelSession(model), inputs)


def run_each(run: Session, inputs: Sequence[Image]) -> Timed:
    """Runs a network image by image; the first image runs twice, since it also warms up."""
    run(inputs[0][None])
    outputs, times = [], []
    for image in inputs:
        start = perf_counter()
        outputs.append(run(image[None]))
        times.append(1000 * (perf_counter() - start))
    # Other work on the machine only ever makes an image slower.
    return Timed(outputs, min(times))


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a check.

    Attributes:
        findings: All findings.
        milliseconds: Shortest time of an image in the file's runtime, and in PyTorch.
        agrees: Whether every finding is within its limit.
    """

    findings: list[Finding]
    milliseconds: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether every finding is within its limit."""
        return all(finding.kept for finding in self.findings)


def check(model: VisionModel, exported: Predictor, export: Export, inputs: Sequence[Image]) -> Report:
    """Compares the outputs of an exported file with those of its model, on the same inputs.

    Args:
        model: Model in evaluation mode.
        exported: The open file.
        export: Description of the file; its precision decides how much may differ.
        inputs: ``(H, W, 3)`` uint8 of the export's size.
    """
    expected, found = reference(model, inputs), run_each(exported.outputs, inputs)
    findings = []
    for head in model.spec.heads:
        findings += compare(head, model.spec.tasks[head], expected.outputs, found.outputs, export)
    return Report(findings, (found.milliseconds, expected.milliseconds))


def compare(
    head: str, task: Task, expected: Sequence[Outputs], found: Sequence[Outputs], export: Export
) -> list[Finding]:
    """Compares the outputs of a head of a file with those of the model.

    Args:
        head: Name of the head.
        task: Its task.
        expected: Outputs of the model, for each image.
        found: Outputs of the file.
        export: The file; its precision decides how much may differ.
    """
    expected, found = ([outputs_of(head, task, each) for each in some] for some in (expected, found))
    if task == "classification":
        findings = _compare_classes(expected, found, export.precision)
    elif task == "segmentation":
        findings = _compare_masks(expected, found, export.precision)
    elif output_name(head, DETECTIONS) in export.outputs:
        findings = _compare_detections(expected, found, export, export.nms_options[head])
    else:
        findings = _compare_boxes(expected, found, export, export.nms_options[head])
    return findings if head in TASKS else [replace(each, what=f"{head}: {each.what}") for each in findings]


def _compare_classes(expected: Sequence[Outputs], found: Sequence[Outputs], precision: Precision) -> list[Finding]:
    ours = np.concatenate([each["probabilities"] for each in expected])
    theirs = np.concatenate([each["probabilities"] for each in found])
    same = int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    least = TOP1_SHARE[precision]
    return [
        Finding("largest difference of a probability", f"{np.abs(ours - theirs).max():.2g}"),
        Finding("same first class", f"{same} of {len(ours)}", _at_least(least), same >= least * len(ours)),
    ]


def _compare_boxes(
    expected: Sequence[Outputs], found: Sequence[Outputs], export: Export, nms_options: NmsOptions
) -> list[Finding]:
    """Compares all boxes above the threshold before NMS, which may turn a tiny difference into a missing box."""
    shifts, scores = [], 0.0
    for ours, theirs in zip(expected, found, strict=True):
        shown = ours["scores"].max(axis=2) > nms_options.score_threshold
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


def _compare_detections(
    expected: Sequence[Outputs], found: Sequence[Outputs], export: Export, nms_options: NmsOptions
) -> list[Finding]:
    """Compares the boxes after NMS: each box of the model with the nearest box of its class in the file."""
    total, missing, pixels, scores = 0, 0, 0.0, 0.0
    for ours, theirs in zip(expected, found, strict=True):
        (wanted,) = postprocess("detection", ours, export.size, nms_options)
        (got,) = postprocess("detection", theirs, export.size, nms_options)
        assert isinstance(wanted, Detections)
        assert isinstance(got, Detections)
        for box, class_id, score in zip(wanted.boxes, wanted.class_ids, wanted.scores, strict=True):
            same = got.class_ids == class_id
            distances = np.abs(got.boxes[same] - box).max(axis=1, initial=0.0)
            total += 1
            if not len(distances) or distances.min() > _SAME_BOX:
                missing += 1
                continue
            pixels = max(pixels, float(distances.min()))
            scores = max(scores, abs(float(got.scores[same][distances.argmin()] - score)))
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
