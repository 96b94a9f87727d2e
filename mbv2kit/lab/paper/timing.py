"""Times split networks against the plain one."""

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import torch

from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import MemoryPlan, SplitSession

ROUNDS = 9


def relative_times(model: VisionModel, plans: Mapping[str, MemoryPlan], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Times plans and the plain model in turn, so that other load on the machine affects all of them equally.

    Args:
        model: Model in evaluation mode, in the memory format in which it would be used.
        plans: Plans for this model, all for the same input size.
        rounds: Number of runs of each.

    Returns:
        For each plan, its time divided by that of the plain model in the same round.
    """
    size = next(iter(plans.values())).size
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    split = {name: SplitSession(model, plan).compute for name, plan in plans.items()}
    with torch.no_grad():
        _time(partial(model, images))
        for each in split.values():
            _time(partial(each, images))
        ratios: dict[str, list[float]] = {name: [] for name in plans}
        for _ in range(rounds):
            plain = _time(partial(model, images))
            for name, each in split.items():
                ratios[name].append(_time(partial(each, images)) / plain)
    return ratios


def _time(job: Callable[[], object]) -> float:
    started = perf_counter()
    job()
    return perf_counter() - started
