"""Publishes a model on the Hugging Face Hub: the model folder, its metrics and a model card, in one commit.

mbv2kit push repository=OWNER/NAME dry_run=card
mbv2kit push repository=OWNER/NAME checkpoint=card private=true
mbv2kit push repository=OWNER/NAME checkpoint=outputs/detection/coco/2026-01-31_12-00-00 message='First metrics'

dry_run=FOLDER uploads nothing: read the model card, README.md, and change it; checkpoint=FOLDER then publishes it.
To log in: `hf auth login`, or a token in the environment variable HF_TOKEN.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command
from mbv2kit.errors import UserError


def job(config: DictConfig) -> None:
    """Publishes; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.models.run_folder import find_model
    from mbv2kit.weights.hub import preview, push

    found = find_model(config.checkpoint)
    if found is None:
        raise UserError(f"checkpoint={config.checkpoint} is neither a run folder nor a model folder.")
    folder, repository = found.path, str(config.repository)
    if config.dry_run is not None:
        output = Path(str(config.dry_run))
        preview(folder, repository, output)
        print(f"Nothing was uploaded; {output} holds what would be. Read the model card: {output / 'README.md'}")
    else:
        address = push(folder, repository, private=bool(config.private), message=str(config.message or ""))
        print(f"{folder} is now at {address}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("push", __doc__, job, argv, extra="weights")
