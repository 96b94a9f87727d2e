"""Trains ten steps, validates, and prints the memory that it took; keys are those of ``mbv2kit train``.

python -m tests.training.memory task=segmentation loader.batch_size=4
"""

import resource
import sys
import tempfile
from typing import Any
from unittest.mock import patch

from mbv2kit.process import configure_threads
from tests.training.usage import Usage, usage_of_children

KEYS = (
    "dataset.train_count=640",
    "dataset.val_count=64",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=10",
    "trainer.limit_val_batches=2",
    "trainer.progress_bar=false",
    "export=false",
)


def main(keys: list[str]) -> None:
    """Prints the peak of the training process, and what its workers hold besides, in MB."""
    configure_threads()
    from lightning.pytorch.callbacks import LambdaCallback

    from mbv2kit.cli.keywords import compose_in_program
    from mbv2kit.training.fit import create_trainer
    from mbv2kit.training.parts import training_parts
    from mbv2kit.training.run import train

    workers: list[Usage] = []

    def watched(*arguments: Any) -> Any:
        trainer = create_trainer(*arguments)
        note = LambdaCallback(on_validation_end=lambda *_: workers.append(usage_of_children()))
        trainer.callbacks.append(note)  # type: ignore[attr-defined]
        return trainer

    watching = patch("mbv2kit.training.run.create_trainer", watched)
    with tempfile.TemporaryDirectory(prefix="memory_") as folder, watching:
        overrides = [*KEYS, *keys, f"run_dir={folder}/run"]
        train(compose_in_program("train", overrides, training_parts()), overrides)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{' '.join(keys)}: {peak:,.0f} MB at the peak, {workers[0].divided:,.0f} MB in workers")


if __name__ == "__main__":
    main(sys.argv[1:])
