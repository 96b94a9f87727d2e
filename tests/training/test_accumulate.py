"""A step whose batch is divided: gradients, terms and runs are those of the whole batch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import TrainingBatch, collate_training
from mbv2kit.data.joined import FIELDS
from mbv2kit.data.order import EpochSampler
from mbv2kit.data.sources import create_source
from mbv2kit.errors import UserError
from mbv2kit.heads import HEADS, create_head
from mbv2kit.heads.registry import Targets
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import TASKS, Sample, Task
from mbv2kit.training.losses import StepLosses
from mbv2kit.training.task import VisionTask
from mbv2kit.training.weighting import UncertaintyWeights
from tests.training.test_task import PREPROCESS, make_task, silence


def drawn(count: int, tasks: Sequence[Task] = TASKS) -> list[Sample]:
    """Draws images with the ground truth of some tasks, of which they hold different amounts."""
    augment = create_augment({"preset": "none"}, PREPROCESS)
    sources = {task: create_source("shapes", task=task, split="train", size=96) for task in tasks}
    samples = []
    for index in range(count):
        sample = augment(sources[tasks[0]][index], np.random.default_rng(0))
        for task in tasks[1:]:
            other = augment(sources[task][index], np.random.default_rng(0))
            sample = replace(sample, **{name: getattr(other, name) for name in FIELDS[task]})
        if sample.mask is not None:
            sample.mask[: 7 * index] = 255
        samples.append(sample)
    return samples


def steps(task: VisionTask, batch: TrainingBatch, parts: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Returns the gradients and the terms of a step, with statistics that do not depend on the batch."""
    task.eval()
    task.zero_grad(set_to_none=True)
    losses = StepLosses(task.model, task.weights, parts)
    losses.start(batch).backward()  # type: ignore[no-untyped-call]
    for loss in losses.rest():
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad.clone() for name, each in task.named_parameters() if each.grad is not None}
    return gradients, {name: float(value) for name, (value, _) in losses.terms.items()}


def assert_equal_steps(task: VisionTask, batch: TrainingBatch, parts: int) -> None:
    whole, terms = steps(task, batch, 1)
    divided, parted = steps(task, batch, parts)
    assert divided.keys() == whole.keys()
    assert parted == pytest.approx(terms, rel=1e-6)
    for name, gradient in whole.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((divided[name] - gradient).abs().max()) <= 1e-6 * scale, name


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("tasks", [*[(task,) for task in TASKS], TASKS])
def test_the_gradient_of_the_parts_is_that_of_the_batch(tasks: tuple[Task, ...], parts: int) -> None:
    task = make_task(*tasks, ema_decay=None)
    assert_equal_steps(task, collate_training(drawn(6, tasks)), parts)


def test_parts_without_ground_truth_leave_it_to_the_others() -> None:
    task = make_task(*TASKS, ema_decay=None)
    samples = drawn(6)
    # The first part has no mask and the last one no box that counts.
    samples[:2] = [replace(sample, mask=None) for sample in samples[:2]]
    samples[4:] = [
        replace(sample, boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), crowd=np.zeros(0, np.bool_))
        for sample in samples[4:]
    ]
    statistics = {name: buffer.clone() for name, buffer in task.model.named_buffers()}
    assert_equal_steps(task, collate_training(samples), 3)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in task.model.named_buffers())


def test_learned_weights_count_once() -> None:
    task = make_task(*TASKS, ema_decay=None)
    task.weights = UncertaintyWeights(TASKS)
    with torch.no_grad():
        for value in task.weights.parameters():
            value.fill_(0.7)
    assert_equal_steps(task, collate_training(drawn(6)), 3)


@pytest.mark.parametrize("name", HEADS.names())
def test_every_head_knows_what_its_loss_is_a_mean_over(name: str) -> None:
    torch.manual_seed(0)
    infos = [FeatureInfo(f"map_{stride}", 8, stride) for stride in (8, 16, 32)]
    options = {"maps": [info.name for info in infos]} if name in ("ssd", "ssdlite") else {}
    try:
        head = create_head(name, infos, 6, **options).eval()
    except UserError:
        pytest.skip("it needs the maps of its own backbone")
    features = {info.name: torch.randn(4, 8, 320 // info.stride, 320 // info.stride) for info in infos}
    own: Targets = collate_training(drawn(4, [head.task])).targets[head.task]

    def loss(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = {key: value if key == "size" else value[rows] for key, value in own.items()}
        raw = head({key: each[rows] for key, each in features.items()})
        terms = head.loss(raw, chosen)
        return torch.stack(list(terms.values())).sum(), head.count(raw, chosen).clamp(min=head.least_count)

    (whole, count), *halves = loss(slice(0, 4)), loss(slice(0, 2)), loss(slice(2, 4))
    assert float(sum(value * own_count for value, own_count in halves) / count) == pytest.approx(float(whole), rel=1e-5)


def test_a_batch_of_several_passes_repeats_the_shares() -> None:
    sampler = EpochSampler((8, 4), (2, 1), seed=0, repeats=2)
    assert len(sampler) == 2
    for places in sampler:
        assert [place[1] >= 8 for place in places] == [False, False, True] * 2
    # A single data set comes in the order that it has in batches of that size.
    assert list(EpochSampler((8,), (2,), 0, repeats=2)) == list(EpochSampler((8,), (4,), 0))


def test_a_step_of_the_task_goes_through_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("classification", ema_decay=None)
    silence(task, monkeypatch)
    seen: list[int] = []
    task.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    task._losses = StepLosses(task.model, task.weights, 3)
    task.backward(task.training_step(collate_training(drawn(6, ["classification"])), 1))
    assert seen == [2, 2, 2]
    task.guard.remember()
    task.on_before_optimizer_step(task.optimizer)
    task.mean_losses()
    assert task._images["loss"] == 6
