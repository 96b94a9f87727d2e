import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.lab.benchmark.ratios import Spread, paired, settled, spread

times = st.floats(1e-6, 1e3)


def test_quartiles_are_interpolated() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratios_are_taken_round_by_round() -> None:
    assert paired([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]


@given(st.lists(st.tuples(times, times, st.floats(0.1, 10)), min_size=1, max_size=9))
def test_what_slows_a_whole_round_does_not_change_ratios(rounds: list[tuple[float, float, float]]) -> None:
    ours, theirs = [a for a, _, _ in rounds], [b for _, b, _ in rounds]
    slowed = paired([b * drift for _, b, drift in rounds], [a * drift for a, _, drift in rounds])
    assert slowed == pytest.approx(paired(theirs, ours))


def test_a_ratio_needs_both_values_of_a_round() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("medians", "done"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([1.0, 1.04, 1.02], True),
        ([1.0, 1.02, 1.06], False),
        ([9.0, 3.0, 1.0, 1.0, 1.0], True),
        # Steady but twice as slow as before: both threads share one core.
        ([1.0, 2.0, 2.0, 2.0], False),
    ],
)
def test_a_warm_up_ends_when_turns_agree(medians: list[float], done: bool) -> None:
    assert settled(medians) is done
