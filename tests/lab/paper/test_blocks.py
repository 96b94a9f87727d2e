from functools import partial
from typing import Any

import pytest

from mbv2kit.analysis.complexity import complexity
from mbv2kit.analysis.contractions import fold_norms, in_place_activations
from mbv2kit.analysis.graph import build_on_meta, trace
from mbv2kit.analysis.memory import peak_memory
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.lab.paper.blocks import (
    Block,
    ConvLayer,
    ImageKept,
    Layer,
    Map,
    backbone_layers,
    banded_peak,
    bottleneck_bound,
    fuse_stem,
    naive_peak,
    network_peak,
    split_peak,
)
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel

# One channel at a time in every block.
FULL = 960


def build(name: str = "mobilenet_v2", **options: Any) -> VisionModel:
    return build_on_meta(
        ModelSpec(
            backbone={"name": name, **options},
            heads={"classification": {"name": "classifier"}},
            class_names={"classification": tuple(map(str, range(1000)))},
            input=Preprocess((224, 224)),
        )
    )


@pytest.fixture(scope="module")
def layers() -> tuple[Layer, ...]:
    return backbone_layers(build(), (224, 224))


def test_the_blocks_are_those_of_table_2(layers: tuple[Layer, ...]) -> None:
    stem, *blocks, last = layers
    assert isinstance(stem, ConvLayer)
    assert isinstance(last, ConvLayer)
    assert (stem.input, stem.output) == (Map(3, 224, 224), Map(32, 112, 112))
    assert (last.input, last.output) == (Map(320, 7, 7), Map(1280, 7, 7))
    # t, c, n, s of Table 2, and the side of the input.
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    channels, side = 32, 112
    expected = []
    for t, c, n, s in table:
        for k in range(n):
            stride = s if k == 0 else 1
            expected.append((channels, t * channels, c, side, side // stride))
            channels, side = c, side // stride
    found = []
    for block in blocks:
        assert isinstance(block, Block)
        inner = block.depthwise.output
        found.append((block.input.channels, inner.channels, block.output.channels, block.input.width, inner.width))
    assert found == expected
    assert [layer.name for layer in layers] == [f"layer_{k}" for k in range(1, 20)]


def test_without_splitting_the_second_block_needs_most(layers: tuple[Layer, ...]) -> None:
    assert network_peak(layers, naive_peak) == 6_823_936
    assert network_peak(layers, partial(naive_peak, folded=False)) == 10_436_608
    assert max(layers, key=naive_peak).name == "layer_3"


@pytest.mark.parametrize(
    ("parts", "split", "split_fused", "bound", "bound_fused"),
    [
        (1, 6_823_936, 6_823_936, 5_920_768, 5_920_768),
        (2, 4_114_432, 4_114_432, 3_512_320, 3_512_320),
        (3, 3_110_912, 3_110_912, 2_960_384, 2_709_504),
        (4, 2_809_856, 2_609_152, 2_809_856, 2_308_096),
        (5, 2_759_680, 2_358_272, 2_759_680, 2_107_392),
        (10, 2_609_152, 1_806_336, 2_609_152, 1_605_632),
        (FULL, 2_458_624, 1_505_280, 2_458_624, 1_455_104),
    ],
)
def test_peaks_of_split_blocks_have_the_known_values(
    layers: tuple[Layer, ...], parts: int, split: int, split_fused: int, bound: int, bound_fused: int
) -> None:
    fused = fuse_stem(layers)
    assert network_peak(layers, partial(split_peak, parts=parts)) == split
    assert network_peak(fused, partial(split_peak, parts=parts)) == split_fused
    assert network_peak(layers, partial(bottleneck_bound, parts=parts)) == bound
    assert network_peak(fused, partial(bottleneck_bound, parts=parts)) == bound_fused


@pytest.mark.parametrize(
    ("layer", "naive", "unfolded", "fp16", "quarters", "bound"),
    [
        ("layer_1", 2156, 3136, 2156, 2156, 2156),
        ("layer_2", 3920, 4704, 3136, 2744, 2744),
        ("layer_3", 6664, 10192, 4018, 2548, 2254),
        ("layer_5", 2499, 3822, 1494.5, 943.25, 833),
        ("layer_13", 955.5, 955.5, 588, 367.5, 257.25),
        ("layer_18", 398.125, 398.125, 275.625, 183.75, 137.8125),
    ],
)
def test_peaks_of_single_layers_match_counts_by_hand(
    layers: tuple[Layer, ...], layer: str, naive: float, unfolded: float, fp16: float, quarters: float, bound: float
) -> None:
    """In KiB of 32-bit floats."""
    (found,) = [candidate for candidate in layers if candidate.name == layer]
    needs = [
        naive_peak(found),
        naive_peak(found, folded=False),
        split_peak(found, 2),
        split_peak(found, 4),
        bottleneck_bound(found, 4),
    ]
    assert [need * 4 / 1024 for need in needs] == [naive, unfolded, fp16, quarters, bound]


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize(
    ("parts", "blocks", "bands", "image", "peak", "extra"),
    [
        (1, 4, 7, "fp32", 2_093_056, 0.085),
        (1, 4, 14, "fp32", 1_605_632, 0.185),
        (4, 2, 7, "fp32", 1_505_280, 0.011),
        (4, 4, 7, "fp32", 1_308_160, 0.085),
        (4, 4, 14, "fp32", 1_107_456, 0.185),
        (4, 4, 14, "uint8", 655_872, 0.185),
        (4, 4, 28, "uint8", 555_520, 0.382),
        (4, 4, 14, "streamed", 505_344, 0.185),
    ],
)
def test_peaks_of_bands_have_the_known_values(
    padding: str, parts: int, blocks: int, bands: int, image: ImageKept, peak: int, extra: float
) -> None:
    model = build(padding=padding)
    found = banded_peak(backbone_layers(model, (224, 224)), blocks=blocks, bands=bands, parts=parts, image=image)
    assert found.bytes == peak
    assert round(found.extra_madds / complexity(model, (224, 224)).madds, 3) == extra


def test_one_band_recomputes_nothing_and_more_bands_recompute_more(layers: tuple[Layer, ...]) -> None:
    extra = [banded_peak(layers, blocks=4, bands=bands, parts=1).extra_madds for bands in (1, 2, 3, 7, 28)]
    assert extra[0] == 0
    assert extra == sorted(set(extra))


def test_a_band_depends_on_the_rows_under_its_kernels(layers: tuple[Layer, ...]) -> None:
    stem, first = layers[:2]
    assert isinstance(stem, ConvLayer)
    assert isinstance(first, Block)
    # 3 x 3 at stride 2, a row of zeros above: row k depends on rows 2 k - 1 to 2 k + 1.
    assert stem.rows_needed(range(10, 20)) == range(19, 40)
    assert stem.rows_needed(range(5)) == range(10)
    assert stem.rows_needed(range(100, 112)) == range(199, 224)
    assert first.depthwise.rows_needed(range(10, 20)) == range(9, 21)
    assert first.project.rows_needed(range(10, 20)) == range(10, 20)
    dilated = backbone_layers(build(output_stride=8), (224, 224))[17]
    assert isinstance(dilated, Block)
    assert dilated.depthwise.rows_needed(range(10, 12)) == range(6, 16)


@pytest.mark.parametrize("size", [(224, 224), (97, 160)])
def test_the_closed_form_is_an_upper_bound_of_the_exact_peak(size: tuple[int, int]) -> None:
    model = build(width=0.5)
    graph = in_place_activations(fold_norms(trace(model, size)))
    block_by_block = network_peak(backbone_layers(model, size), naive_peak)
    assert 0.8 * block_by_block < peak_memory(graph).peak <= block_by_block


def test_a_fused_stem_is_the_expansion_of_the_first_block(layers: tuple[Layer, ...]) -> None:
    block, *rest = fuse_stem(layers)
    assert isinstance(block, Block)
    assert block.expand == layers[0]
    assert block.input == Map(3, 224, 224)
    assert tuple(rest) == layers[2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mobilenet_v1"}, r"Backbone 'mobilenet_v1' has no inverted residual blocks"),
        ({"shortcut": "expansion"}, r"With shortcut 'expansion' a block depends on"),
    ],
)
def test_networks_without_such_blocks_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone_layers(build(**options), (64, 64))


def test_fronts_that_do_not_exist_are_refused(layers: tuple[Layer, ...]) -> None:
    for blocks in (0, 18):
        with pytest.raises(UserError, match=rf"blocks must be from 1 to 17, .* got {blocks}"):
            banded_peak(layers, blocks=blocks, bands=2, parts=4)
    for bands in (0, 29):
        with pytest.raises(UserError, match=rf"bands must be from 1 to 28, the output rows of block 4, got {bands}"):
            banded_peak(layers, blocks=4, bands=bands, parts=4)
