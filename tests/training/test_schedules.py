from math import cos, pi
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import UserError
from mbv2kit.training.schedules import SCHEDULES, create_schedule
from mbv2kit.training.schedules.constant import Constant
from mbv2kit.training.schedules.cosine import Cosine
from mbv2kit.training.schedules.exponential import Exponential
from mbv2kit.training.schedules.poly import Poly
from mbv2kit.training.schedules.steps import Steps

STEPS = 10


def test_constant_is_one() -> None:
    schedule = Constant(STEPS, 3)
    assert {schedule(step) for step in range(30)} == {1.0}


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_warm_up_climbs_evenly_to_the_peak(name: str) -> None:
    still = {"gamma": 1.0} if name in ("exponential", "steps") else {}
    schedule = create_schedule({"name": name, "warmup_epochs": 0.5, **still}, STEPS, 4)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule(5) == 1.0


def test_the_paper_s_staircase_falls_once_an_epoch() -> None:
    schedule = Exponential(STEPS, 100, gamma=0.98)
    assert {schedule(step) for step in range(10)} == {1.0}
    assert schedule(10) == schedule(19) == 0.98
    assert schedule(999) == pytest.approx(0.98**99)


def test_without_the_staircase_it_falls_at_every_step() -> None:
    schedule = Exponential(STEPS, 100, gamma=0.5, staircase=False)
    assert schedule(0) == 1.0
    assert schedule(5) == pytest.approx(0.5**0.5)
    assert schedule(10) == pytest.approx(0.5)


def test_the_staircase_may_be_longer_or_shorter_than_an_epoch() -> None:
    # 2.5 epochs of 10 steps: the authors' recipe for one GPU; on 8 GPUs each epoch of their count is an eighth.
    long = Exponential(STEPS, 100, gamma=0.98, decay_epochs=2.5)
    assert [long(step) for step in (0, 24, 25, 49, 50)] == pytest.approx([1, 1, 0.98, 0.98, 0.98**2])
    short = Exponential(STEPS, 100, gamma=0.5, decay_epochs=0.5)
    assert [short(step) for step in (4, 5, 10)] == pytest.approx([1, 0.5, 0.25])
    smooth = Exponential(STEPS, 100, gamma=0.5, decay_epochs=4, staircase=False)
    assert [smooth(step) for step in (20, 40)] == pytest.approx([0.5**0.5, 0.5])


def test_steps_fall_at_the_milestones_alone() -> None:
    schedule = Steps(STEPS, 10, gamma=0.1, milestones=[2, 3.5])
    assert {schedule(step) for step in range(20)} == {1.0}
    assert {schedule(step) for step in range(20, 35)} == {0.1}
    assert [schedule(step) for step in (35, 99, 999)] == pytest.approx([0.01] * 3)
    assert {Steps(STEPS, 10, gamma=0.1, milestones=[])(step) for step in range(100)} == {1.0}


def test_cosine_falls_from_the_peak_to_its_final_share() -> None:
    schedule = Cosine(STEPS, 3, warmup_epochs=1, final_fraction=0.1)
    assert schedule(10) == 1.0
    assert schedule(15) == pytest.approx(0.1 + 0.9 * (1 + cos(pi / 4)) / 2)
    assert schedule(20) == pytest.approx(0.55)
    assert schedule(30) == schedule(99) == pytest.approx(0.1)


def test_poly_is_deeplab_s() -> None:
    schedule = Poly(STEPS, 2)
    assert [schedule(step) for step in (0, 5, 19, 20)] == pytest.approx([1.0, 0.75**0.9, 0.05**0.9, 0.0])


OWN_OPTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "constant": st.just({}),
    "cosine": st.fixed_dictionaries({"final_fraction": st.floats(0, 1)}),
    "exponential": st.fixed_dictionaries(
        {"gamma": st.floats(0, 1, exclude_min=True), "staircase": st.booleans(), "decay_epochs": st.floats(0.01, 60)}
    ),
    "poly": st.fixed_dictionaries({"power": st.floats(0, 5)}),
    "steps": st.fixed_dictionaries(
        {
            "gamma": st.floats(0, 1, exclude_min=True),
            "milestones": st.lists(st.floats(0.01, 60), unique=True).map(sorted),
        }
    ),
}


@pytest.mark.parametrize("name", SCHEDULES.names())
@given(
    data=st.data(),
    steps_per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 50),
    warmup=st.floats(0, 1),
    step=st.integers(0, 5000),
)
def test_a_factor_lies_between_0_and_1_and_never_rises_after_the_warm_up(
    name: str, data: st.DataObject, steps_per_epoch: int, epochs: int, warmup: float, step: int
) -> None:
    options = data.draw(OWN_OPTIONS[name])
    schedule = create_schedule({"name": name, "warmup_epochs": warmup * epochs, **options}, steps_per_epoch, epochs)
    assert 0 <= schedule(step) <= 1
    assert schedule(step) == schedule(step)
    if step >= round(warmup * epochs * steps_per_epoch):
        assert schedule(step + 1) <= schedule(step) + 1e-12


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cosin"}, r"There is no schedule 'cosin'\. Did you mean 'cosine'\?"),
        ({}, r"scheduler\.name must be one of constant, cosine, exponential, poly, steps, got None\."),
        ({"name": "cosine", "gamma": 0.5}, "schedule 'cosine' has no option 'gamma'"),
        (
            {"name": "cosine", "warmup_epochs": 4},
            r"schedule 'cosine': warmup_epochs must be at most the 3 epochs of the run, got 4",
        ),
        ({"name": "cosine", "warmup_epochs": -1}, "warmup_epochs must be a number from 0 to 1,000,000, got -1"),
        (
            {"name": "exponential", "decay_epochs": 0},
            "schedule 'exponential': decay_epochs must be .* above 0 .*, got 0",
        ),
        (
            {"name": "steps", "milestones": [3, 2]},
            r"schedule 'steps': milestones must be .* rising order.* got \[3, 2\]",
        ),
        (
            {"name": "steps", "milestones": [2, 2]},
            r"schedule 'steps': milestones .*each given once, got \[2, 2\]",
        ),
        ({"name": "steps", "milestones": [0]}, r"schedule 'steps': milestones must be .*above 0 .*got \[0\]"),
    ],
)
def test_a_wrong_config_is_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_schedule(config, STEPS, 3)


def test_a_config_is_the_schedule_s_arguments() -> None:
    config = {"name": "exponential", "warmup_epochs": 0.0, "gamma": 0.9, "staircase": False}
    assert create_schedule(config, STEPS, 3) == Exponential(STEPS, 3, gamma=0.9, staircase=False)
