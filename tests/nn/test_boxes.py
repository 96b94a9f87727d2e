from math import sqrt
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.nn import boxes as bx

GRIDS_AT_300 = [(n, n) for n in (19, 10, 5, 3, 2, 1)]
GRIDS_AT_320 = [(n, n) for n in (20, 10, 5, 3, 2, 1)]


def anchors(grids: list[tuple[int, int]], preset: bx.AnchorPreset, image: tuple[int, int] = (300, 300)) -> Tensor:
    return bx.make_anchors(grids, bx.anchor_shapes(len(grids), preset, 0.2, 0.95), image)


def centers_and_sizes(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


@st.composite
def pixel_boxes(draw: st.DrawFn, most: int = 4) -> Tensor:
    """Boxes on whole pixels of a 12 x 12 image, empty ones too."""
    corner = st.tuples(*[st.integers(0, 12)] * 4)
    found = [
        [min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in draw(st.lists(corner, min_size=1, max_size=most))
    ]
    return torch.tensor(found, dtype=torch.float32)


def painted(box: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    image = np.zeros((12, 12), dtype=np.bool_)
    x1, y1, x2, y2 = (int(value) for value in box)
    image[y1:y2, x1:x2] = True
    return image


def test_tensorflows_detector_has_1917_anchors_at_300() -> None:
    boxes = anchors(GRIDS_AT_300, "tf")
    assert boxes.shape == (1917, 4)
    assert boxes.dtype == torch.float32
    first = 0.5 / 19
    level_1 = 19 * 19 * 3
    expected = {
        0: (first, first, 0.1, 0.1),
        1: (first, first, 0.282843, 0.141421),
        2: (first, first, 0.141421, 0.282843),
        3: (3 * first, first, 0.1, 0.1),
        19 * 3: (first, 3 * first, 0.1, 0.1),
        level_1: (0.05, 0.05, 0.35, 0.35),
        level_1 + 1: (0.05, 0.05, 0.494975, 0.247487),
        level_1 + 2: (0.05, 0.05, 0.247487, 0.494975),
        level_1 + 3: (0.05, 0.05, 0.606218, 0.202073),
        level_1 + 4: (0.05, 0.05, 0.202073, 0.606218),
        level_1 + 5: (0.05, 0.05, 0.418330, 0.418330),
        1911: (0.5, 0.5, 0.95, 0.95),
        1916: (0.5, 0.5, 0.974679, 0.974679),
    }
    found = centers_and_sizes(boxes)[list(expected)]
    torch.testing.assert_close(found, torch.tensor(list(expected.values())), atol=1e-6, rtol=0)


def test_anchors_reach_over_the_border_unclipped() -> None:
    boxes = anchors(GRIDS_AT_300, "tf")
    assert boxes.min() < 0
    assert boxes.max() > 1


def test_uniform_anchors_are_six_a_cell() -> None:
    boxes = anchors(GRIDS_AT_320, "uniform")
    assert boxes.shape == (3234, 4)
    sizes = centers_and_sizes(boxes)[:6, 2:]
    scales = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2, sqrt(0.2 * 0.35)])
    torch.testing.assert_close(sizes.prod(dim=1).sqrt(), scales)
    torch.testing.assert_close(sizes[:, 0] / sizes[:, 1], torch.tensor([1, 2, 1 / 2, 3, 1 / 3, 1]))


def test_steps_place_the_cells_of_some_levels() -> None:
    """An input of 300 x 600 with steps of 32 pixels; the second level is even."""
    grids, shapes = [(10, 19), (1, 2)], [[(0.5, 0.5)], [(0.25, 1.0)]]
    even = bx.make_anchors(grids, shapes, (300, 600))
    covered = bx.covered_pixels(grids, shapes, (32.0, None))
    assert covered.tolist() == [[608, 320]] * 190 + [[0, 0]] * 2
    found = centers_and_sizes(bx.move_to_steps(even, covered, (300, 600)))
    expected = [[min(600, 16 + 32 * x), min(300, 16 + 32 * y)] for y in range(10) for x in range(19)]
    expected += [[150, 150], [450, 150]]
    torch.testing.assert_close(found[:, :2] * torch.tensor([600, 300]), torch.tensor(expected).float())
    torch.testing.assert_close(found[:, 2:], centers_and_sizes(even)[:, 2:])


@pytest.mark.parametrize("image", [(300, 600), (600, 300), (10, 20)])
def test_square_anchors_stay_square_in_an_image_that_is_not(image: tuple[int, int]) -> None:
    height, width = image
    boxes = bx.make_anchors([(3, 6), (1, 2)], [[(0.5, 0.5)], [(0.25, 1.0)]], image)
    sizes = centers_and_sizes(boxes)[:, 2:] * torch.tensor([width, height])
    short = min(image)
    torch.testing.assert_close(sizes[:18], torch.full((18, 2), 0.5 * short))
    torch.testing.assert_close(sizes[18:], torch.tensor([[0.25 * short, 1.0 * short]] * 2))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (0.5, 0.4), (0.2, 1.1), (-0.1, 0.5)])
def test_scales_out_of_order_are_refused(low: float, high: float) -> None:
    with pytest.raises(UserError, match=r"^min_scale and max_scale must be in order within \(0, 1\]"):
        bx.anchor_shapes(6, "tf", low, high)


def test_scales_may_be_equal_and_as_large_as_the_image() -> None:
    assert [level[0] for level in bx.anchor_shapes(2, "uniform", 1.0, 1.0)] == [(1.0, 1.0)] * 2
    shapes = bx.default_box_shapes((4, 4, 4), first_scale=0.5, min_scale=0.5, max_scale=0.5)
    assert [level[0] for level in shapes] == [(0.5, 0.5)] * 3


def sides_at(pixels: int, shapes: list[tuple[float, float]]) -> Tensor:
    return torch.tensor(shapes) * pixels


def test_default_boxes_at_512_are_those_of_the_authors_code() -> None:
    """The scales are 7 %, then 15 to 90 % of 512 in steps of 15 %; after the last comes 105 %."""
    shapes = bx.default_box_shapes((4, 6, 6, 6, 6, 4, 4), first_scale=0.07, min_scale=0.15, max_scale=0.9)
    small = [35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8]
    large = [76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6]
    for level, (side, following) in enumerate(zip(small, large, strict=True)):
        ratios = [2, 1 / 2] if level in (0, 5, 6) else [2, 1 / 2, 3, 1 / 3]
        expected = [(side, side), *((side * sqrt(r), side / sqrt(r)) for r in ratios), (sqrt(side * following),) * 2]
        torch.testing.assert_close(sides_at(512, shapes[level]), torch.tensor(expected))


def test_default_boxes_at_300_follow_the_papers_formula() -> None:
    shapes = bx.default_box_shapes((4, 6, 6, 6, 4, 4), first_scale=0.1, min_scale=0.2, max_scale=0.9)
    assert [len(cell) for cell in shapes] == [4, 6, 6, 6, 4, 4]
    squares = torch.stack([sides_at(300, cell)[0, 0] for cell in shapes])
    torch.testing.assert_close(squares, torch.tensor([30, 60, 112.5, 165, 217.5, 270]))
    first = torch.tensor([[30, 30], [42.4264, 21.2132], [21.2132, 42.4264], [42.4264, 42.4264]])
    torch.testing.assert_close(sides_at(300, shapes[0]), first)
    thin = torch.tensor([[103.9230, 34.6410], [34.6410, 103.9230], [82.1584, 82.1584]])
    torch.testing.assert_close(sides_at(300, shapes[1])[3:], thin)
    torch.testing.assert_close(sides_at(300, shapes[5])[3], torch.full((2,), sqrt(270 * 322.5)))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((0.1, 0.9, 0.2), r"^min_scale and max_scale must be in order within \(0, 1\], got 0\.9 and 0\.2\."),
        ((0.0, 0.2, 0.9), r"^first_scale must be above 0 and at most min_scale, which is 0\.2, got 0\.0\."),
        ((0.3, 0.2, 0.9), r"^first_scale must be above 0 and at most min_scale, which is 0\.2, got 0\.3\."),
    ],
)
def test_scales_of_default_boxes_out_of_order_are_refused(scales: tuple[float, float, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bx.default_box_shapes((4, 6, 4), *scales)


def test_one_level_is_enough() -> None:
    assert bx.anchor_shapes(1, "uniform", 0.2, 0.95)[0][0] == (0.2, 0.2)


def test_the_coder_writes_shifts_times_10_and_logarithms_times_5() -> None:
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    box = torch.tensor([[15.0, 10.0, 55.0, 110.0]])
    # Center (20, 40) -> (35, 60), size (20, 40) -> (40, 100).
    expected = torch.tensor([[10 * 15 / 20, 10 * 20 / 40, 5 * np.log(2), 5 * np.log(2.5)]], dtype=torch.float32)
    torch.testing.assert_close(bx.encode(box, anchor), expected)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-0.5, 1.5)] * 2, *[st.floats(1e-3, 2.0)] * 2), min_size=1))
def test_decoding_undoes_encoding(rows: list[tuple[float, float, float, float]]) -> None:
    corners = torch.tensor(rows, dtype=torch.float64)
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
    references = torch.tensor([[0.4, 0.3, 0.6, 0.7]], dtype=torch.float64).expand(len(boxes), 4)
    torch.testing.assert_close(bx.decode(bx.encode(boxes, references), references), boxes)


def test_wild_codes_and_flat_boxes_stay_finite() -> None:
    anchor = torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    largest = bx.decode(torch.tensor([[0.0, 0.0, 35.0, 1e6]]), anchor)
    torch.testing.assert_close(centers_and_sizes(largest)[0, 2:], torch.full((2,), 0.2 * float(np.exp(7))))
    assert bx.decode(torch.full((1, 4), 1e6), anchor).isfinite().all()
    assert bx.encode(torch.tensor([[0.5, 0.5, 0.5, 0.5]]), anchor).isfinite().all()


@settings(deadline=None)
@given(pixel_boxes(), pixel_boxes())
def test_overlap_is_that_of_painted_pixels(boxes: Tensor, others: Tensor) -> None:
    shared, overlap = bx.intersection(boxes, others), bx.iou(boxes, others)
    assert overlap.shape == (len(boxes), len(others))
    for i, box in enumerate(boxes):
        assert bx.area(box) == painted(box).sum()
        for j, other in enumerate(others):
            both = int((painted(box) & painted(other)).sum())
            either = int((painted(box) | painted(other)).sum())
            assert shared[i, j] == both
            assert overlap[i, j].item() == pytest.approx(both / either if either else 0.0)


def test_a_box_that_ends_before_it_starts_has_no_area() -> None:
    assert bx.area(torch.tensor([[5.0, 5.0, 1.0, 9.0], [5.0, 5.0, 1.0, 1.0]])).tolist() == [0.0, 0.0]


def match(boxes: Tensor, references: Tensor, threshold: float = 0.5) -> Tensor:
    """Matches the boxes of one image."""
    return bx.match([bx.iou(boxes, references)], threshold)[0]


def test_anchors_take_the_box_they_overlap_most_from_the_threshold_on() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    references = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 5.0],  # half of box 0: exactly the threshold
            [0.0, 0.0, 10.0, 4.9],
            [20.0, 0.0, 30.0, 9.0],
            [50.0, 50.0, 60.0, 60.0],
        ]
    )
    assert match(boxes, references).tolist() == [0, 0, -1, 1, -1]
    assert match(boxes, references, threshold=0.45).tolist() == [0, 0, 0, 1, -1]
    assert match(boxes, references, threshold=0.95).tolist() == [0, -1, -1, 1, -1]


def test_every_box_gets_an_anchor_even_below_the_threshold() -> None:
    small = torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    references = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]])
    assert match(small, references).tolist() == [-1, 0]


def test_two_boxes_of_one_place_get_an_anchor_each() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 9.0, 9.0]])
    references = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]])
    # Both overlap anchor 0 most; box 1 fits it exactly, so box 0 takes its next best.
    assert match(boxes, references).tolist() == [1, 0, -1]


def test_without_boxes_everything_is_background() -> None:
    assert match(torch.zeros(0, 4), anchors(GRIDS_AT_300, "tf")).tolist() == [-1] * 1917


def match_by_hand(boxes: Tensor, references: Tensor, threshold: float) -> list[int]:
    """The rule in words: the box of the highest IoU, then the pairs from the highest IoU down; the first of equals."""
    overlaps = bx.iou(boxes, references)
    matched = [-1] * len(references)
    for anchor in range(len(references)):
        for box in range(len(boxes)):
            best = overlaps[matched[anchor], anchor] if matched[anchor] >= 0 else -1.0
            if overlaps[box, anchor] >= threshold and overlaps[box, anchor] > best:
                matched[anchor] = box
    pairs = sorted((-overlaps[b, a].item(), b, a) for b in range(len(boxes)) for a in range(len(references)))
    for _ in range(min(overlaps.shape)):
        _, box, anchor = pairs[0]
        matched[anchor] = box
        pairs = [pair for pair in pairs if pair[1] != box and pair[2] != anchor]
    return matched


@settings(deadline=None)
@given(st.lists(pixel_boxes(most=5), min_size=1, max_size=4), pixel_boxes(most=7), st.randoms(use_true_random=False))
def test_images_are_matched_on_their_own_and_without_what_does_not_count(
    images: list[Tensor], references: Tensor, random: Random
) -> None:
    counted = [torch.tensor([random.random() < 0.7 for _ in boxes], dtype=torch.bool) for boxes in images]
    overlaps = [
        bx.iou(boxes, references).masked_fill(~counts[:, None], -1.0)
        for boxes, counts in zip(images, counted, strict=True)
    ]
    for matched, boxes, counts in zip(bx.match(overlaps), images, counted, strict=True):
        places = counts.nonzero()[:, 0].tolist()
        alone = match(boxes[counts], references)
        assert matched.tolist() == [places[box] if box >= 0 else -1 for box in alone.tolist()]


@settings(deadline=None)
@given(pixel_boxes(most=6), pixel_boxes(most=8), st.sampled_from([0.3, 0.5, 0.7]))
def test_matching_leaves_out_no_box_and_no_threshold(boxes: Tensor, references: Tensor, threshold: float) -> None:
    matched = match(boxes, references, threshold)
    assert matched.tolist() == match_by_hand(boxes, references, threshold)
    assert matched.shape == (len(references),)
    overlaps = bx.iou(boxes, references)
    trained = set(matched.tolist()) - {-1}
    if len(references) >= len(boxes):
        assert trained == set(range(len(boxes)))
    for anchor, box in enumerate(matched.tolist()):
        best = overlaps[:, anchor].max()
        if box == -1:
            assert best < threshold
        elif overlaps[box, anchor] < best:
            # Only a forced match may go against the overlap, and it is the only one of its box to do so.
            others = [a for a, b in enumerate(matched.tolist()) if b == box and a != anchor]
            assert all(overlaps[box, other] == overlaps[:, other].max() for other in others)
