"""Memory-efficient inference (Section 5.1): plans how to split blocks by channels and rows, runs and measures them."""

from mbv2kit.splitting.plan import MemoryPlan
from mbv2kit.splitting.planner import plan_evenly, plan_memory, smallest_peak
from mbv2kit.splitting.session import SplitSession

__all__ = ["MemoryPlan", "SplitSession", "plan_evenly", "plan_memory", "smallest_peak"]
