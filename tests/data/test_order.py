"""The order of an epoch where images lie in blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.data.order import Blocks, EpochSampler


@given(
    blocks=st.lists(st.integers(0, 7), min_size=1, max_size=60),
    window=st.integers(1, 80),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_an_epoch_holds_every_image_once_and_none_far_from_where_it_is_read(
    blocks: list[int], window: int, seed: int, epoch: int
) -> None:
    numbers = np.array(blocks)
    order = Blocks(numbers, window).order(np.random.default_rng((seed, epoch)))
    assert sorted(order.tolist()) == list(range(len(blocks)))
    assert np.array_equal(order, Blocks(numbers, window).order(np.random.default_rng((seed, epoch))))
    if window < len(blocks):
        ranks = np.random.default_rng((seed, epoch)).permutation(numbers.max() + 1)
        read = np.argsort(ranks[numbers], kind="stable")
        places = np.empty(len(read), dtype=np.int64)
        places[read] = np.arange(len(read))
        assert (np.abs(places[order] - np.arange(len(order))) < window).all()


def test_a_window_of_one_reads_block_by_block() -> None:
    numbers = np.repeat(np.arange(5), 4)
    order = Blocks(numbers, 1).order(np.random.default_rng(0))
    visited = numbers[order].reshape(5, 4)
    assert (visited == visited[:, :1]).all()
    assert sorted(visited[:, 0].tolist()) == list(range(5))
    assert visited[:, 0].tolist() != list(range(5))


def test_a_window_of_all_images_is_the_order_of_a_data_set_without_blocks() -> None:
    blocks = Blocks(np.repeat(np.arange(4), 5), 20)
    assert list(EpochSampler((20,), (3,), 7, blocks=[blocks])) == list(EpochSampler((20,), (3,), 7))


def test_few_blocks_are_in_use_at_a_time() -> None:
    count, length, window = 100, 50, 200
    numbers = np.repeat(np.arange(count), length)
    visited = numbers[Blocks(numbers, window).order(np.random.default_rng(1))]
    first = {block: int(np.argmax(visited == block)) for block in range(count)}
    last = {block: len(visited) - int(np.argmax(visited[::-1] == block)) for block in range(count)}
    most = max(sum(first[block] <= place < last[block] for block in range(count)) for place in range(0, 5000, 50))
    assert most <= 2 * window / length + 2
    # A batch holds images of many blocks all the same, and no epoch repeats another.
    assert np.mean([len(set(visited[start : start + 32].tolist())) for start in range(1000, 4000, 32)]) > 3
    assert not np.array_equal(visited, numbers[Blocks(numbers, window).order(np.random.default_rng(2))])


@pytest.mark.parametrize("start", [0, 1, 7])
def test_an_epoch_goes_on_in_the_middle(start: int) -> None:
    blocks = [Blocks(np.repeat(np.arange(6), 8), 10), None]
    whole = list(EpochSampler((48, 9), (4, 1), 3, blocks=blocks))
    sampler = EpochSampler((48, 9), (4, 1), 3, blocks=blocks)
    sampler.start = start
    assert list(sampler) == whole[start:]
