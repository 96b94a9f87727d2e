"""Compares windows and bands with the rows that a convolution really reads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv2kit.nn.layers import Conv2d
from mbv2kit.splitting.bands import schedule
from mbv2kit.splitting.chain import find_chain
from mbv2kit.splitting.window import Window
from tests.splitting.models import build


@given(
    size=st.integers(1, 40),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.integers(1, 3),
    padding=st.sampled_from(["symmetric", "tf_same"]),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_window_knows_the_rows_that_a_convolution_reads(
    size: int, kernel: int, stride: int, dilation: int, padding: str, data: st.DataObject
) -> None:
    if stride > 1:
        dilation = 1
    conv = Conv2d(1, 1, kernel, stride=stride, dilation=dilation, padding=padding)  # type: ignore[arg-type]
    torch.nn.init.ones_(conv.weight)
    window = Window.of(conv, size)
    x = torch.zeros(1, 1, size, size, requires_grad=True)
    output = conv(x)
    assert output.shape[2] == window.output
    start = data.draw(st.integers(0, window.output - 1))
    stop = data.draw(st.integers(start + 1, window.output))
    (touched,) = torch.autograd.grad(output[:, :, start:stop].sum(), x)
    rows = torch.nonzero(touched.sum(dim=(0, 1, 3))).flatten().tolist()
    needed = window.needed(range(start, stop))
    assert set(rows) <= set(needed)
    # A window with gaps may skip rows.
    assert dilation > 1 or kernel < stride or rows == list(needed)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("size", [96, 97, 110])
def test_bands_compute_every_row_and_need_only_rows_that_exist(keep: bool, padding: str, size: int) -> None:
    model = build(padding=padding)
    blocks = find_chain(model, (size, size)).blocks
    for first, last in ((0, 1), (0, 4), (1, 3), (2, 8), (4, 6)):
        chain = blocks[first : last + 1]
        height = chain[-1].output_size[0]
        for rows in range(1, height + 1):
            bands = schedule(chain, rows, keep)
            assert [row for band in bands for row in band[-1].output] == list(range(height))
            for band, after in zip(bands, [*bands[1:], None], strict=True):
                for place, part in enumerate(band):
                    if place:
                        assert [*part.reused, *band[place - 1].output] == list(part.input) or not part.output
                    if after is not None:
                        assert part.saved == after[place].reused
                    assert set(part.saved) <= set(part.input)
                    if keep and place:
                        assert len(set(band[place - 1].output)) == len(band[place - 1].output)
            if keep:
                for place in range(len(chain) - 1):
                    computed = [row for band in bands for row in band[place].output]
                    assert computed == sorted(set(computed))
