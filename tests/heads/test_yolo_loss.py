"""YOLOv2's loss against one that is written down prediction by prediction, from the paper's words."""

from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mbv2kit.heads.yolo_loss import decode_boxes, encode_boxes, yolo_loss

Box = list[float]
# Boxes in pixels, their labels, and which of them are crowds.
Image = tuple[list[Box], list[int], list[bool]]
ROWS, COLUMNS = 3, 4
SIZE = (96, 128)
CLASSES = 3
ANCHORS = [[0.2, 0.3], [0.5, 0.4], [0.7, 0.9]]
TERMS = ("localization", "objectness", "background", "classification")


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def overlap(a: Box, b: Box) -> float:
    return shared(a, b) / (area(a) + area(b) - shared(a, b))


def box_of(code: Box, row: int, column: int, anchor: Box) -> Box:
    x, y = (sigmoid(code[0]) + column) / COLUMNS, (sigmoid(code[1]) + row) / ROWS
    width, height = anchor[0] * exp(code[2]), anchor[1] * exp(code[3])
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def slow_loss(raw: dict[str, Tensor], targets: dict[str, Any]) -> tuple[list[float], list[int]]:
    """Returns the four terms, and how many predictions of each image learn that they see nothing."""
    codes, objectness, logits = (
        raw[key].double().tolist() for key in ("box_codes", "objectness_logits", "class_logits")
    )
    height, width = targets["size"]
    sums, nothing = [0.0] * 4, []
    images = len(codes)
    for i in range(images):
        unit = [[x1 / width, y1 / height, x2 / width, y2 / height] for x1, y1, x2, y2 in targets["boxes"][i].tolist()]
        crowd = targets["crowd"][i].tolist()
        regions = [box for box, many in zip(unit, crowd, strict=True) if many]
        objects = [
            (box, label)
            for box, label, many in zip(unit, targets["labels"][i].tolist(), crowd, strict=True)
            if not many
        ]
        responsible: dict[tuple[int, int, int], tuple[Box, int]] = {}
        for box, label in objects:
            column = int((box[0] + box[2]) / 2 * COLUMNS)
            row = int((box[1] + box[3]) / 2 * ROWS)
            sides = [box[2] - box[0], box[3] - box[1]]
            fits = [overlap([0, 0, *sides], [0, 0, *anchor]) for anchor in ANCHORS]
            responsible[row, column, fits.index(max(fits))] = box, label
        nothing.append(0)
        for row in range(ROWS):
            for column in range(COLUMNS):
                for a, anchor in enumerate(ANCHORS):
                    code = codes[i][row][column][a]
                    seen = box_of(code, row, column, anchor)
                    confidence = sigmoid(objectness[i][row][column][a])
                    if (row, column, a) in responsible:
                        box, label = responsible[row, column, a]
                        x, y = (box[0] + box[2]) / 2 * COLUMNS - column, (box[1] + box[3]) / 2 * ROWS - row
                        w, h = log((box[2] - box[0]) / anchor[0]), log((box[3] - box[1]) / anchor[1])
                        errors = [sigmoid(code[0]) - x, sigmoid(code[1]) - y, code[2] - w, code[3] - h]
                        sums[0] += (2 - area(box)) * sum(error**2 for error in errors) / 2
                        sums[1] += 5 * (confidence - overlap(seen, box)) ** 2 / 2
                        scores = logits[i][row][column][a]
                        sums[3] += log(sum(exp(score) for score in scores)) - scores[label]
                    elif max([overlap(seen, box) for box, _ in objects], default=0) < 0.6 and not any(
                        shared(seen, region) > 0.5 * area(seen) for region in regions
                    ):
                        sums[2] += confidence**2 / 2
                        nothing[i] += 1
    return [value / images for value in sums], nothing


def raw_outputs(images: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (images, ROWS, COLUMNS, len(ANCHORS))
    return {
        "box_codes": (0.6 * torch.randn(*shape, 4, generator=generator)).requires_grad_(),
        "objectness_logits": torch.randn(*shape, generator=generator).requires_grad_(),
        "class_logits": (2 * torch.randn(*shape, CLASSES, generator=generator)).requires_grad_(),
        "anchors": torch.tensor(ANCHORS),
    }


def targets_of(images: list[Image]) -> dict[str, Any]:
    return {
        "size": SIZE,
        "boxes": [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes, _, _ in images],
        "labels": [torch.tensor(labels, dtype=torch.int64) for _, labels, _ in images],
        "crowd": [torch.tensor(crowd, dtype=torch.bool) for _, _, crowd in images],
    }


def test_a_prediction_is_at_most_e_to_the_7_times_its_anchor() -> None:
    codes = torch.zeros(1, 1, len(ANCHORS), 4)
    codes[0, 0, 0, 2], codes[0, 0, 0, 3] = 1e6, 7.0
    box = decode_boxes(codes, torch.tensor(ANCHORS))[0, 0, 0].double()
    assert (box[2] - box[0]).item() == pytest.approx(ANCHORS[0][0] * exp(7))
    assert (box[3] - box[1]).item() == pytest.approx(ANCHORS[0][1] * exp(7))


def test_centers_outside_the_image_and_flat_boxes_have_targets_within_their_cell() -> None:
    boxes = torch.tensor([[-0.3, -0.2, 0.1, 0.1], [0.9, 0.8, 1.5, 1.6], [0.5, 0.5, 0.5, 0.7]])
    place, targets = encode_boxes(boxes, (ROWS, COLUMNS), torch.tensor(ANCHORS))
    assert (place // len(ANCHORS)).tolist() == [0, ROWS * COLUMNS - 1, 1 * COLUMNS + 2]
    torch.testing.assert_close(targets[:, :2], torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.8]]))
    # A side of zero counts as a millionth of the image.
    assert targets[2, 2].item() == pytest.approx(log(1e-6 / ANCHORS[int(place[2]) % len(ANCHORS)][0]), rel=1e-4)


def image(rng: np.random.Generator, codes: Tensor) -> Image:
    """Up to five boxes: of any place and shape, twice the same, or one that is seen already."""
    boxes: list[Box] = []
    for _ in range(rng.integers(0, 6)):
        corner = rng.uniform(0, 0.9, 2)
        box = [*corner, *rng.uniform(corner + 0.03, 1)]
        kind = rng.random()
        if kind < 0.2 and boxes:
            box = boxes[-1]
        elif kind < 0.5:
            place = (int(rng.integers(ROWS)), int(rng.integers(COLUMNS)), int(rng.integers(len(ANCHORS))))
            seen = box_of(codes[place].tolist(), place[0], place[1], ANCHORS[place[2]])
            box = np.clip(np.array(seen) + rng.normal(0, 0.02, 4), 0, 1).tolist()
        boxes.append(box)
    pixels = (np.array(boxes).reshape(-1, 4) * [128, 96, 128, 96]).tolist()
    return pixels, rng.integers(0, CLASSES, len(boxes)).tolist(), (rng.random(len(boxes)) < 0.25).tolist()


EMPTY: Image = ([], [], [])
TWO: Image = ([[4.0, 6.0, 40.0, 50.0], [50.3, 20.1, 120.9, 60.2]], [0, 2], [False, False])
CROWDED: Image = ([[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 128.0, 60.0]], [1, 1], [False, True])


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_is_the_one_written_prediction_by_prediction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = raw_outputs(1 + seed % 3, seed)
    targets = targets_of([image(rng, codes) for codes in raw["box_codes"]])
    losses = yolo_loss(raw, targets)
    expected, _ = slow_loss(raw, targets)
    assert tuple(losses) == TERMS
    assert [value.item() for value in losses.values()] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def gradients(raw: dict[str, Tensor], targets: dict[str, Any]) -> dict[str, Tensor]:
    keys = ("box_codes", "objectness_logits", "class_logits")
    total = torch.stack(list(yolo_loss(raw, targets).values())).sum()
    return dict(zip(keys, torch.autograd.grad(total, [raw[key] for key in keys]), strict=True))


@pytest.mark.parametrize("batch", [[EMPTY], [EMPTY, EMPTY], [TWO, EMPTY], [CROWDED, TWO, EMPTY]])
def test_losses_and_gradients_are_finite_whatever_the_batch_holds(batch: list[Image]) -> None:
    raw, targets = raw_outputs(len(batch)), targets_of(batch)
    for gradient in gradients(raw, targets).values():
        assert gradient.isfinite().all()
    losses = yolo_loss(raw, targets)
    assert losses["background"] > 0
    assert (losses["localization"] + losses["objectness"] + losses["classification"] == 0) == (TWO not in batch)


def test_a_box_does_not_move_to_please_its_objectness() -> None:
    raw = raw_outputs(1)
    objectness = yolo_loss(raw, targets_of([TWO]))["objectness"]
    (gradient,) = torch.autograd.grad(objectness, [raw["box_codes"]], allow_unused=True, materialize_grads=True)
    assert not gradient.any()


def test_predictions_that_cannot_be_right_do_no_harm() -> None:
    raw = raw_outputs(1)
    wild = (raw["box_codes"].detach() * 1000).requires_grad_()
    for gradient in gradients({**raw, "box_codes": wild}, targets_of([TWO])).values():
        assert gradient.isfinite().all()


def test_an_object_is_learnt_by_one_prediction_and_its_absence_by_most_others() -> None:
    raw, targets = raw_outputs(3), targets_of([TWO, CROWDED, EMPTY])
    learning = {key: value.abs() for key, value in gradients(raw, targets).items()}
    assert learning["box_codes"].amax(-1).count_nonzero(dim=(1, 2, 3)).tolist() == [2, 1, 0]
    assert learning["class_logits"].amax(-1).count_nonzero(dim=(1, 2, 3)).tolist() == [2, 1, 0]
    _, nothing = slow_loss(raw, targets)
    assert nothing[1] < nothing[0] < nothing[2] == ROWS * COLUMNS * len(ANCHORS)
    of_objectness = learning["objectness_logits"].count_nonzero(dim=(1, 2, 3)).tolist()
    assert of_objectness == [nothing[0] + 2, nothing[1] + 1, nothing[2]]


def test_a_crowd_over_the_whole_image_leaves_nothing_to_learn() -> None:
    everything: Image = ([[-128.0, -96.0, 256.0, 192.0]], [0], [True])
    raw = raw_outputs(1)
    raw["box_codes"] = (raw["box_codes"].detach() * 0.3).requires_grad_()
    assert not any(gradient.any() for gradient in gradients(raw, targets_of([everything])).values())


def test_more_images_of_the_same_cost_the_same() -> None:
    raw = raw_outputs(1)
    twice = {key: value if key == "anchors" else value.repeat_interleave(2, dim=0) for key, value in raw.items()}
    for one, two in zip(
        yolo_loss(raw, targets_of([TWO])).values(), yolo_loss(twice, targets_of([TWO, TWO])).values(), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_half_precision_is_left_for_the_loss() -> None:
    raw, targets = raw_outputs(2), targets_of([TWO, CROWDED])
    rough = {key: value.detach().to(torch.bfloat16) for key, value in raw.items() if key != "anchors"}
    exact = {key: value.float() for key, value in rough.items()}
    for low, high in zip(
        yolo_loss({**rough, "anchors": raw["anchors"]}, targets).values(),
        yolo_loss({**exact, "anchors": raw["anchors"]}, targets).values(),
        strict=True,
    ):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, high)


BOXES = st.tuples(*[st.floats(0, 0.9)] * 2, *[st.floats(0.02, 1)] * 2).map(
    lambda box: [box[0], box[1], min(1.0, box[0] + box[2]), min(1.0, box[1] + box[3])]
)


def codes_of(wanted: Tensor) -> Tensor:
    return torch.cat([wanted[:, :2].logit(), wanted[:, 2:]], dim=1)


@given(st.lists(BOXES, min_size=1, max_size=5), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_box_written_as_a_code_is_the_same_box_when_read(boxes: list[Box], grid: tuple[int, int]) -> None:
    wanted_boxes, anchors = torch.tensor(boxes), torch.tensor(ANCHORS)
    place, wanted = encode_boxes(wanted_boxes, grid, anchors)
    for k, box in enumerate(wanted_boxes):
        codes = torch.zeros(grid[0] * grid[1] * len(ANCHORS), 4)
        codes[place[k]] = codes_of(wanted[k : k + 1])[0]
        decoded = decode_boxes(codes.reshape(*grid, len(ANCHORS), 4), anchors).reshape(-1, 4)
        torch.testing.assert_close(decoded[place[k]], box, rtol=0, atol=1e-5)


def test_centers_on_the_border_belong_to_the_last_cell() -> None:
    boxes = torch.tensor([[0.9, 0.9, 1.1, 1.1], [-0.1, -0.1, 0.1, 0.1]])
    place, wanted = encode_boxes(boxes, (ROWS, COLUMNS), torch.tensor(ANCHORS))
    assert (place // len(ANCHORS)).tolist() == [ROWS * COLUMNS - 1, 0]
    torch.testing.assert_close(wanted[:, :2], torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_a_perfect_answer_costs_nothing_and_has_nothing_to_learn_about_boxes() -> None:
    targets = targets_of([TWO])
    boxes = targets["boxes"][0] / torch.tensor([128, 96, 128, 96])
    place, wanted = encode_boxes(boxes, (ROWS, COLUMNS), torch.tensor(ANCHORS))
    count = ROWS * COLUMNS * len(ANCHORS)
    codes, objectness, logits = torch.zeros(count, 4), torch.full((count,), -20.0), torch.zeros(count, CLASSES)
    codes[place] = codes_of(wanted)
    objectness[place] = 20.0
    logits[place, targets["labels"][0]] = 30.0
    shape = (1, ROWS, COLUMNS, len(ANCHORS))
    raw = {
        "box_codes": codes.reshape(*shape, 4).requires_grad_(),
        "objectness_logits": objectness.reshape(shape).requires_grad_(),
        "class_logits": logits.reshape(*shape, CLASSES).requires_grad_(),
        "anchors": torch.tensor(ANCHORS),
    }
    for value in yolo_loss(raw, targets).values():
        assert value.item() < 1e-6
    torch.testing.assert_close(gradients(raw, targets)["box_codes"], torch.zeros(*shape, 4), rtol=0, atol=1e-6)
