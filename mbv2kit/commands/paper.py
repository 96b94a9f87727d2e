"""Compares every table and figure of the MobileNetV2 paper with this implementation: report.html and report.md.

mbv2kit paper
mbv2kit paper tables=table4
mbv2kit paper tables=[table4,figure5,memory] output=report
mbv2kit paper runs=outputs/classification

Each published number is printed next to the computed one, with the difference and whether it is within its tolerance.
The exit code is 1 if a number disagrees, else 0.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from mbv2kit.cli.command import run_command


def job(config: DictConfig) -> int:
    """Writes the report; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.lab.paper.comparison import Verdict
    from mbv2kit.lab.paper.report import disagreement, section_names, summary_line, write_report

    output = Path(config.output or f"outputs/paper/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    comparisons = write_report(section_names(config.tables), output, Path(config.runs))
    print(summary_line(comparisons))
    wrong = [comparison for comparison in comparisons if comparison.verdict is Verdict.DISAGREES]
    for comparison in wrong:
        print(f"  {disagreement(comparison)}")
    print(f"The report is {output / 'report.html'}, and {output / 'report.md'}.")
    return int(bool(wrong))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command on ``argv``, by default the arguments of this process, and exits."""
    run_command("paper", __doc__, job, argv)
