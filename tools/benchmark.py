"""Measures how fast models are beside what people would use instead: benchmark.json, benchmark.md, a plot for each job.

python tools/benchmark.py models.classification=MODEL_FOLDER
python tools/benchmark.py jobs=[classification,cold_start] models.classification=MODEL_FOLDER threads=2
python tools/benchmark.py jobs=detection models.detection=[ONE,ANOTHER] python.ultralytics=/path/to/python
python tools/benchmark.py jobs=files models.classification=MODEL_FOLDER 'infer=[{precision:int8},{runtime:openvino}]'
python tools/benchmark.py results=outputs/benchmark/2026-01-31_12-00-00/benchmark.json page=docs/performance.md

Every competitor runs in a process of its own, and they take turns. One that is not installed is listed with the reason.
"""

from omegaconf import DictConfig

from mbv2kit.cli.config import run_tool


def job(config: DictConfig) -> None:
    """Measures; what takes long to import is imported once the command line is known to be right."""
    from mbv2kit.lab.benchmark.run import benchmark

    benchmark(config)


if __name__ == "__main__":
    run_tool(__file__, "benchmark", job)
