"""Sets every table and figure of the MobileNetV2 paper beside ours: report.html and report.md.

python tools/paper.py
python tools/paper.py tables=table4
python tools/paper.py tables=[table4,figure5,memory] output=report
python tools/paper.py runs=outputs/classification

Each number stands beside our count of it, with the difference and whether it is inside its tolerance. The exit code is
1 where a number does not agree, else 0.
"""

from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from mbv2kit.cli.config import run_tool


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


if __name__ == "__main__":
    run_tool(__file__, "paper", job)
