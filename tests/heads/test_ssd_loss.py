"""SSD's loss against one that is written down box by box, from the papers' words."""

from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mbv2kit.heads.objects import in_crowd
from mbv2kit.heads.ssd import SSD
from mbv2kit.nn import boxes as bx
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Detections

Box = list[float]
# Boxes in pixels, their labels, and which of them are crowds.
Image = tuple[list[Box], list[int], list[bool]]
FEATURES = [FeatureInfo("near", 8, 16), FeatureInfo("far", 8, 32)]
CLASSES = 3
SIZE = (64, 96)


def overlap(a: Box, b: Box) -> tuple[float, float]:
    """Returns the shared area and the intersection over union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared, shared / (area(a) + area(b) - shared)


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def owners(boxes: list[Box], anchors: list[Box]) -> list[int]:
    """For each anchor the box that it must find, or -1."""
    owner = [-1] * len(anchors)
    pairs = []
    for a, anchor in enumerate(anchors):
        overlaps = [overlap(box, anchor)[1] for box in boxes]
        pairs += [(value, b, a) for b, value in enumerate(overlaps)]
        if boxes and max(overlaps) >= 0.5:
            owner[a] = overlaps.index(max(overlaps))
    served: set[int] = set()
    taken: set[int] = set()
    for _, b, a in sorted(pairs, key=lambda pair: -pair[0]):
        if b not in served and a not in taken:
            owner[a] = b
            served.add(b)
            taken.add(a)
    return owner


def codes(box: Box, anchor: Box) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    return [
        10 * ((box[0] + box[2]) / 2 - (anchor[0] + anchor[2]) / 2) / width,
        10 * ((box[1] + box[3]) / 2 - (anchor[1] + anchor[3]) / 2) / height,
        5 * log((box[2] - box[0]) / width),
        5 * log((box[3] - box[1]) / height),
    ]


def smooth_l1(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def to_unit(boxes: list[Box], height: int, width: int) -> list[Box]:
    return [[x1 / width, y1 / height, x2 / width, y2 / height] for x1, y1, x2, y2 in boxes]


def slow_loss(raw: dict[str, Tensor], targets: dict[str, Any]) -> tuple[float, float, list[int]]:
    """Returns both terms, and for each image how many background anchors count."""
    anchors: list[Box] = raw["anchors"].double().tolist()
    height, width = targets["size"]
    classification, localization, matches, negatives = 0.0, 0.0, 0, []
    for i in range(len(raw["class_logits"])):
        unit = to_unit(targets["boxes"][i].tolist(), height, width)
        crowd: list[bool] = targets["crowd"][i].tolist()
        objects = [box for box, many in zip(unit, crowd, strict=True) if not many]
        labels = [label for label, many in zip(targets["labels"][i].tolist(), crowd, strict=True) if not many]
        regions = [box for box, many in zip(unit, crowd, strict=True) if many]
        background, positives = [], 0
        for a, owner in enumerate(owners(objects, anchors)):
            logits: list[float] = raw["class_logits"][i, a].double().tolist()
            log_sum = log(sum(exp(value) for value in logits))
            if owner >= 0:
                positives += 1
                classification += log_sum - logits[labels[owner] + 1]
                differences = zip(raw["box_codes"][i, a].tolist(), codes(objects[owner], anchors[a]), strict=True)
                localization += sum(smooth_l1(found - wanted) for found, wanted in differences)
            elif not any(overlap(region, anchors[a])[0] > 0.5 * area(anchors[a]) for region in regions):
                background.append(log_sum - logits[0])
        hardest = sorted(background, reverse=True)[: max(3, 3 * positives)]
        classification += sum(hardest)
        negatives.append(len(hardest))
        matches += positives
    return classification / max(1, matches), localization / max(1, matches), negatives


def head() -> SSD:
    return SSD(FEATURES, CLASSES)


def raw_outputs(images: int, seed: int = 0) -> dict[str, Tensor]:
    """Random predictions on true anchors; what a trained head's logits might look like."""
    torch.manual_seed(seed)
    maps = {"near": torch.randn(images, 8, 4, 6), "far": torch.randn(images, 8, 2, 3)}
    raw = head().eval()(maps)
    return {
        "class_logits": (2 * torch.randn(raw["class_logits"].shape)).requires_grad_(),
        "box_codes": (3 * torch.randn(raw["box_codes"].shape)).requires_grad_(),
        "anchors": raw["anchors"],
    }


def targets_of(images: list[Image]) -> dict[str, Any]:
    return {
        "size": SIZE,
        "boxes": [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes, _, _ in images],
        "labels": [torch.tensor(labels, dtype=torch.int64) for _, labels, _ in images],
        "crowd": [torch.tensor(crowd, dtype=torch.bool) for _, _, crowd in images],
    }


EMPTY: Image = ([], [], [])
TWO: Image = ([[4.0, 6.0, 40.0, 50.0], [50.3, 20.1, 90.9, 60.2]], [0, 2], [False, False])
CROWDED: Image = ([[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 96.0, 40.0]], [1, 1], [False, True])


def image(rng: np.random.Generator) -> Image:
    """Up to four boxes of any place and shape; no two overlaps are alike, so that there is one right answer."""
    count = rng.integers(0, 5)
    corners = rng.uniform(0, 0.9, (count, 2))
    boxes = np.concatenate([corners, rng.uniform(corners + 0.03, 1)], axis=1) * [96, 64, 96, 64]
    return boxes.tolist(), rng.integers(0, CLASSES, count).tolist(), (rng.random(count) < 0.3).tolist()


def test_a_box_with_exactly_half_of_its_area_in_a_crowd_is_background() -> None:
    regions = torch.tensor([[0.0, 0.0, 4.0, 8.0], [20.0, 0.0, 21.0, 1.0], [30.0, 0.0, 31.0, 1.0]])
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 7.0, 8.0], [20.0, 0.0, 21.0, 1.0], [30.0, 0.0, 31.0, 1.0]])
    shared = bx.intersection(regions, boxes)
    assert in_crowd(boxes, shared, torch.tensor([True, True, False])).tolist() == [False, True, True, False]
    assert in_crowd(boxes, shared[:0], torch.zeros(0, dtype=torch.bool)).tolist() == [False] * 4


def test_background_that_is_almost_learned_still_counts() -> None:
    raw, targets = raw_outputs(2), targets_of([TWO, EMPTY])
    raw["class_logits"] = raw["class_logits"].detach() + torch.tensor([10.0, 0.0, 0.0, 0.0])
    classification, _, negatives = slow_loss(raw, targets)
    assert min(negatives) >= 3
    assert head().loss(raw, targets)["classification"].item() == pytest.approx(classification, rel=1e-4)
    # Only background is left, and every loss of it is far below 1.
    alone = targets_of([EMPTY, EMPTY])
    assert 0 < slow_loss(raw, alone)[0] < 1
    assert head().loss(raw, alone)["classification"].item() == pytest.approx(slow_loss(raw, alone)[0], rel=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_the_loss_is_the_one_written_box_by_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = [image(rng) for _ in range(1 + seed % 3)]
    raw, targets = raw_outputs(len(batch), seed), targets_of(batch)
    losses = head().loss(raw, targets)
    classification, localization, _ = slow_loss(raw, targets)
    assert losses.keys() == {"classification", "localization"}
    assert losses["classification"].item() == pytest.approx(classification, rel=1e-4)
    assert losses["localization"].item() == pytest.approx(localization, rel=1e-4, abs=1e-6)


def gradients(losses: dict[str, Tensor], raw: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Returns the gradients of the logits and the codes."""
    return torch.autograd.grad(torch.stack(list(losses.values())).sum(), [raw["class_logits"], raw["box_codes"]])


@pytest.mark.parametrize("batch", [[EMPTY], [EMPTY, EMPTY], [TWO, EMPTY], [CROWDED, TWO, EMPTY]])
def test_losses_and_gradients_are_finite_whatever_the_batch_holds(
    batch: list[Image],
) -> None:
    raw = raw_outputs(len(batch))
    losses = head().loss(raw, targets_of(batch))
    for gradient in gradients(losses, raw):
        assert gradient.isfinite().all()
    assert losses["classification"] > 0
    assert (losses["localization"] == 0) == (batch in ([EMPTY], [EMPTY, EMPTY]))


def anchors_that_learn(raw: dict[str, Tensor], targets: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Counts in each image the anchors that learn a class, and those that learn a box."""
    of_logits, of_codes = (gradient.any(dim=2).sum(dim=1) for gradient in gradients(head().loss(raw, targets), raw))
    return of_logits.tolist(), of_codes.tolist()


def test_three_negatives_teach_for_each_positive() -> None:
    raw, targets = raw_outputs(3), targets_of([TWO, CROWDED, EMPTY])
    learning, positives = anchors_that_learn(raw, targets)
    assert positives[0] >= 2
    assert positives[1] >= 1
    assert learning[0] == 4 * positives[0]
    assert learning[1] == 4 * positives[1]
    assert (learning[2], positives[2]) == (3, 0)
    assert slow_loss(raw, targets)[2] == [3 * positives[0], 3 * positives[1], 3]


def test_the_three_negatives_of_an_empty_image_are_the_hardest() -> None:
    raw, targets = raw_outputs(1), targets_of([EMPTY])
    loss = head().loss(raw, targets)["classification"]
    surprise = -raw["class_logits"].log_softmax(dim=2)[0, :, 0]
    torch.testing.assert_close(loss, surprise.topk(3).values.sum())


def test_a_crowd_over_the_whole_image_leaves_no_background() -> None:
    raw = raw_outputs(1)
    everything: Image = ([[-96.0, -64.0, 192.0, 128.0]], [0], [True])
    losses = head().loss(raw, targets_of([everything]))
    assert losses["classification"].item() == 0
    assert losses["localization"].item() == 0


def test_few_anchors_give_all_the_negatives_they_have() -> None:
    raw = {
        "class_logits": torch.randn(1, 4, CLASSES + 1, requires_grad=True),
        "box_codes": torch.zeros(1, 4, 4, requires_grad=True),
        "anchors": torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.1, 0.1], [0.8, 0.8, 1, 1]]),
    }
    learning, positives = anchors_that_learn(raw, targets_of([([[0.0, 0.0, 96.0, 64.0]], [1], [False])]))
    assert (learning, positives) == ([4], [0])
    assert head().loss(raw, targets_of([EMPTY]))["localization"].item() == 0


def test_a_perfect_answer_costs_nothing_and_is_the_ground_truth_when_decoded() -> None:
    raw, targets = raw_outputs(1), targets_of([TWO])
    boxes, labels, _ = TWO
    unit = to_unit(boxes, *SIZE)
    logits = torch.zeros_like(raw["class_logits"])
    wanted = torch.zeros_like(raw["box_codes"])
    anchors: list[Box] = raw["anchors"].tolist()
    for a, owner in enumerate(owners(unit, anchors)):
        logits[0, a, 0 if owner < 0 else labels[owner] + 1] = 30.0
        if owner >= 0:
            wanted[0, a] = torch.tensor(codes(unit[owner], anchors[a]))
    outputs = {"class_logits": logits, "box_codes": wanted, "anchors": raw["anchors"]}
    losses = head().loss(outputs, targets)
    assert losses["classification"].item() < 1e-6
    assert losses["localization"].item() < 1e-6
    (found,) = head().decode(outputs, SIZE)
    assert isinstance(found, Detections)
    order = found.class_ids.argsort()
    np.testing.assert_array_equal(found.class_ids[order], labels)
    np.testing.assert_allclose(found.boxes[order], boxes, atol=1e-3)
