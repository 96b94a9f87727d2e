"""What splitting costs in time: the split network beside the plain one, in one run."""

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import torch

from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import MemoryPlan, SplitSession

ROUNDS = 9


def relative_times(model: VisionModel, plans: Mapping[str, MemoryPlan], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Times plans beside the plain model, turn by turn, so that what else the machine does hits them alike.

    Args:
        model: In evaluation mode, in channels_last or not, as it would be used.
        plans: Of this model, all for one size.
        rounds: How often each is run.

    Returns:
        For each plan its time in each round, over the plain model's in the same round.
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
