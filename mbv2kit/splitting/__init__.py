"""Inference in little memory (Section 5.1): blocks split by channels and by rows, planned, run and measured."""

from mbv2kit.splitting.plan import MemoryPlan
from mbv2kit.splitting.planner import plan_evenly, plan_memory, smallest_peak
from mbv2kit.splitting.session import SplitModel

__all__ = ["MemoryPlan", "SplitModel", "plan_evenly", "plan_memory", "smallest_peak"]
