"""Measures the speed of models compared with alternatives: benchmark.json, benchmark.md and a plot for each job.

mbv2kit benchmark models.classification=MODEL_FOLDER
mbv2kit benchmark jobs=[classification,cold_start] models.classification=MODEL_FOLDER threads=2
mbv2kit benchmark jobs=detection models.detection=[ONE,ANOTHER] python.ultralytics=/path/to/python
mbv2kit benchmark jobs=files models.classification=MODEL_FOLDER 'infer=[{precision:int8},{runtime:openvino}]'
mbv2kit benchmark results=outputs/benchmark/2026-01-31_12-00-00/benchmark.json page=docs/performance_tables.md

Competitors run in processes of their own and take turns. One that is not installed is listed with the reason.
"""

from collections.abc import Sequence
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command


def job(config: DictConfig) -> None:
    """Measures; what takes long to import is imported once the command line is known to be right."""
    from mbv2kit.lab.benchmark.run import benchmark

    benchmark(config)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("benchmark", __doc__, job, argv)
