"""Lightning calls every hook and every method that this package overrides; one that it never calls would do nothing."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from mbv2kit.data.datamodule import DataModule
from mbv2kit.training.callbacks import Beginning, EpochLog, EpochOrder, MovableCheckpoint
from mbv2kit.training.checkpoints import WholeCheckpoints
from mbv2kit.training.run import train
from mbv2kit.training.stopping import PatientStopping, StopOnSignal
from mbv2kit.training.task import VisionTask

Compose = Callable[..., DictConfig]

CLASSES = (
    VisionTask,
    DataModule,
    Beginning,
    EpochLog,
    EpochOrder,
    MovableCheckpoint,
    PatientStopping,
    StopOnSignal,
    WholeCheckpoints,
)


def overrides(cls: type) -> list[str]:
    bases = cls.__mro__[1:]
    return [
        name
        for name, member in vars(cls).items()
        if callable(member) and not name.startswith("_") and any(hasattr(base, name) for base in bases)
    ]


@pytest.mark.slow
def test_every_override_is_called(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    wanted = {f"{cls.__name__}.{name}" for cls in CLASSES for name in overrides(cls)}

    def watch(cls: type, name: str) -> None:
        original = vars(cls)[name]

        def method(self: Any, *args: Any, **named: Any) -> Any:
            called.add(f"{cls.__name__}.{name}")
            if f"{cls.__name__}.{name}" == "VisionTask.training_step" and self.global_step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, *args, **named)

        monkeypatch.setattr(cls, name, method)

    for cls in CLASSES:
        for name in overrides(cls):
            watch(cls, name)
    monkeypatch.setattr("mbv2kit.training.finish.evaluate_model", lambda *_, **__: None)
    train(tiny(tmp_path / "run", "trainer.early_stopping_patience=9"))
    train(tiny(Path("unused"), f"resume='{tmp_path / 'run'}'"))
    # Removing is for checkpoints of other names than the one that is written.
    assert wanted - called == {"WholeCheckpoints.remove_checkpoint"}
