from contextlib import suppress

import torch

from mbv2kit.training.late import LateValues


def test_values_arrive_one_step_later_and_each_once() -> None:
    received: list[tuple[list[float], str]] = []
    late = LateValues[str](lambda values, step: received.append((values, step)))
    late.flush()
    assert received == []
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    late.send(values, "first")
    assert received == []
    late.send(torch.tensor([3.0]), "second")
    assert received == [([1.0, 2.0], "first")]
    late.flush()
    late.flush()
    assert received == [([1.0, 2.0], "first"), ([3.0], "second")]


def test_a_receiver_that_raises_got_its_values_all_the_same() -> None:
    received: list[str] = []

    def receive(values: list[float], step: str) -> None:
        received.append(step)
        raise ValueError(step)

    late = LateValues[str](receive)
    late.send(torch.zeros(1), "only")
    for _ in range(2):
        with suppress(ValueError):
            late.flush()
    assert received == ["only"]
