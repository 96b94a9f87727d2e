"""Learning rate schedules by name: one file each; a file in this package that registers one adds it."""

from mbv2kit.training.schedules.base import SCHEDULES, Schedule, create_schedule

__all__ = ["SCHEDULES", "Schedule", "create_schedule"]
