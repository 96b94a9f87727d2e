import multiprocessing
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest

from mbv2kit.data.slots import Slots

SIZES = [5, 0, 300_000, 7]


def content(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, SIZES[index], dtype=np.uint8)


@pytest.fixture
def file() -> Iterator[int]:
    with tempfile.TemporaryFile() as temporary:
        os.ftruncate(temporary.fileno(), Slots.length(SIZES))
        yield temporary.fileno()


def open_slots(file: int) -> Slots:
    return Slots(os.dup(file), SIZES)


def test_slots_hold_what_they_are_filled_with(file: int) -> None:
    slots = open_slots(file)
    assert [slots[index] for index in range(4)] == [None] * 4
    for index in (2, 0, 3):
        slots.fill(index, content(index))
    for each in (slots, open_slots(file)):
        assert each[1] is None
        for index in (0, 2, 3):
            found = each[index]
            assert found is not None
            assert np.array_equal(found, content(index))
            with pytest.raises(ValueError, match="read-only"):
                found[:] = 0


def test_zeros_and_nothing_fill_a_slot_too(file: int) -> None:
    slots = open_slots(file)
    slots.fill(0, np.zeros(5, dtype=np.uint8))
    slots.fill(1, np.zeros(0, dtype=np.uint8))
    first, second = slots[0], slots[1]
    assert first is not None
    assert first.tolist() == [0] * 5
    assert second is not None
    assert second.size == 0


def test_a_slot_that_was_filled_in_part_is_empty(file: int) -> None:
    slots = open_slots(file)
    slots.fill(2, content(2))
    # As a system that went down may leave it: the checksum is there, some of the pixels are not.
    os.pwrite(file, bytes(4096), 4 * len(SIZES) + 5 + 100_000)
    assert open_slots(file)[2] is None


def test_a_slot_takes_no_other_size(file: int) -> None:
    with pytest.raises(ValueError, match="slot 0 has 5 bytes, got 6"):
        open_slots(file).fill(0, np.zeros(6, dtype=np.uint8))


def _fill(slots: Slots, indices: list[int]) -> None:
    for index in indices:
        assert slots[index] is None
        slots.fill(index, content(index))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_slots_however_they_are_started(file: int, method: str) -> None:
    slots = open_slots(file)
    process = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
        target=_fill, args=(slots, [0, 2])
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert slots[3] is None
    for index in (0, 2):
        found = slots[index]
        assert found is not None
        assert np.array_equal(found, content(index))
