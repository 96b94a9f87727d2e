import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.training.guard import Step, StepGuard
from mbv2kit.training.optimizers import create_optimizer, hold_back

TakeStep = Callable[[str], bool]


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))


@pytest.fixture
def guard(model: nn.Sequential) -> StepGuard:
    return StepGuard(model)


def judge(guard: StepGuard, loss: Tensor, optimizer: torch.optim.Optimizer, step: Step) -> bool:
    """Checks a step and counts it, before the optimizer moves."""
    counts, norm = guard.check(loss.detach())
    hold_back(optimizer, counts)
    counted = guard.count(loss.item(), norm.item(), step)
    assert counted == bool(counts)
    return counted


OPTIMIZERS = ("sgd", "adamw", "rmsprop")


@pytest.fixture(params=OPTIMIZERS)
def step(request: pytest.FixtureRequest, model: nn.Sequential, guard: StepGuard) -> TakeStep:
    """Takes one step, ``good`` or with a fault, and says whether it counts."""
    optimizer = create_optimizer(model, {"name": request.param, "lr": 0.1, "weight_decay": 0.1})
    count = iter(range(100))

    def run(kind: str) -> bool:
        guard.remember()
        loss: Tensor = model(torch.randn(5, 3, 2, 2)).square().mean()
        if kind == "nan loss":
            loss = loss * float("nan")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if kind in ("inf gradient", "nan gradient"):
            gradient = next(model.parameters()).grad
            assert gradient is not None
            gradient.view(-1)[0] = float(kind.split()[0])
        try:
            return judge(guard, loss, optimizer, Step(next(count), ["cat.jpg", "dog.jpg"]))
        finally:
            optimizer.step()

    return run


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


FAULTS = ["nan loss", "inf gradient", "nan gradient"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_step_changes_nothing_and_is_counted(
    model: nn.Sequential, guard: StepGuard, step: TakeStep, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    assert step("good")
    before = state(model)
    with caplog.at_level(logging.WARNING):
        assert not step(fault)
    after = state(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert guard.skipped == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("step 1: loss ")
    assert record.getMessage().endswith("the step is skipped (images: cat.jpg, dog.jpg)")


def test_a_good_step_moves_weights_and_statistics(model: nn.Sequential, guard: StepGuard, step: TakeStep) -> None:
    before = state(model)
    assert step("good")
    after = state(model)
    assert not any(torch.equal(after[name], before[name]) for name in ("0.weight", "1.running_mean", "3.weight"))
    assert guard.skipped == 0


def test_a_good_step_between_lets_the_run_go_on(guard: StepGuard, step: TakeStep) -> None:
    kinds = ["nan loss", "inf gradient", "good", "nan loss", "nan loss", "good"]
    assert [step(kind) for kind in kinds] == [False, False, True, False, False, True]
    assert guard.skipped == 4


def test_the_third_in_a_row_ends_the_run(model: nn.Sequential, guard: StepGuard, step: TakeStep) -> None:
    step("good")
    before = state(model)
    step("nan loss")
    step("inf gradient")
    with pytest.raises(
        UserError, match=r"stopped at step 3: loss nan.*on the images cat\.jpg, dog\.jpg.*optimizer\.lr"
    ):
        step("nan loss")
    assert guard.skipped == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())


def test_parameters_that_took_no_part_are_no_fault(guard: StepGuard, model: nn.Sequential) -> None:
    guard.remember()
    loss = model[3](torch.randn(2, 16)).sum()
    loss.backward()
    counts, norm = guard.check(loss.detach())
    assert counts
    assert norm > 0


def test_overflows_while_the_scale_is_found_are_undone_and_not_counted(
    model: nn.Sequential, guard: StepGuard, caplog: pytest.LogCaptureFixture
) -> None:
    before = state(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    for step in range(5):
        guard.remember()
        loss = model(torch.randn(5, 3, 2, 2)).square().mean()
        loss.backward()
        gradient = next(model.parameters()).grad
        assert gradient is not None
        gradient.view(-1)[0] = float("inf")
        assert not judge(guard, loss, optimizer, Step(step, ["cat.jpg"], scaled=True))
        optimizer.step()
    assert guard.skipped == 0
    assert not caplog.records
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())
    # A loss that is not finite has nothing to do with the scale.
    guard.remember()
    assert not judge(guard, torch.tensor(float("nan")), optimizer, Step(5, ["cat.jpg"], scaled=True))
    assert guard.skipped == 1


def test_a_loss_that_overflows_at_any_scale_ends_the_run(model: nn.Sequential, guard: StepGuard) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def overflow(step: int) -> bool:
        guard.remember()
        loss = model(torch.randn(5, 3, 2, 2)).square().mean()
        scaler.scale(loss).backward()
        gradient = next(model.parameters()).grad
        assert gradient is not None
        gradient.view(-1)[0] = float("inf")
        scaler.unscale_(optimizer)
        counts = judge(guard, loss, optimizer, Step(step, ["cat.jpg"], scaled=scaler.get_scale() > 1))
        scaler.step(optimizer)
        scaler.update()
        return counts

    before = state(model)
    # The scale falls from 4 to 1 first.
    assert [overflow(step) for step in range(4)] == [False] * 4
    assert guard.skipped == 2
    with pytest.raises(UserError, match=r"stopped at step 4: .* the third step in a row that is not finite"):
        overflow(4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())


def test_an_optimizer_that_cannot_skip_by_itself_gets_no_gradients(model: nn.Sequential) -> None:
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model(torch.randn(5, 3, 2, 2)).square().mean().backward()
    before = state(model)
    hold_back(optimizer, torch.tensor(False))
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())
    assert not any(parameter.grad is not None for parameter in model.parameters())
