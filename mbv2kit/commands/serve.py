"""Serves models over HTTP: image files to predictions, and tensors by the Open Inference Protocol.

mbv2kit serve
mbv2kit serve checkpoint=outputs/detection/coco/2026-01-31_12-00-00 port=8080
mbv2kit serve models.cells=outputs/cells models.scenes=outputs/scenes/model/model_int8.onnx
mbv2kit serve checkpoint=DETECTOR then=CLASSIFIER host=0.0.0.0

curl --data-binary @cat.jpg http://127.0.0.1:8000/predict

SIGTERM and Ctrl-C stop it, once it has answered what it has accepted.
"""

from collections.abc import Sequence
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command


def job(config: DictConfig) -> int:
    """Serves; what takes long to import is imported once the command line is known to be right."""
    from mbv2kit.serving.run import serve

    return serve(config)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("serve", __doc__, job, argv, extra="serve")
