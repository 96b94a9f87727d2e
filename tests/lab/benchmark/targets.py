"""The maintainers' targets for the benchmark. This judges a finished run, and exits with 1 if it misses any:

python -m tests.lab.benchmark.targets outputs/benchmark/2026-01-31_12-00-00/benchmark.json
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Precision
from mbv2kit.lab.benchmark.jobs.classification import BASELINE as TORCHVISION
from mbv2kit.lab.benchmark.jobs.detection import BASELINE as SSDLITE
from mbv2kit.lab.benchmark.jobs.detection import THRESHOLDS, YOLO
from mbv2kit.lab.benchmark.jobs.segmentation import BASELINE as TRANSFORMERS
from mbv2kit.lab.benchmark.jobs.segmentation import NAME as AT_513
from mbv2kit.lab.benchmark.jobs.segmentation import QUANTIZED
from mbv2kit.lab.benchmark.jobs.whole_programs import BY_HAND, IMPORT_TORCH, LONG, MANY, SCRIPT, peak_of
from mbv2kit.lab.benchmark.jobs.whole_programs import YOLO as YOLO_PREDICT
from mbv2kit.lab.benchmark.results import Results
from mbv2kit.lab.benchmark.tables import short
from tests.lab.benchmark.judging import Pick, Target, judge

# As fast as the best, within 3 percent.
_AS_FAST = 0.97
_SAME_MEMORY = 1.05


def targets() -> tuple[Target, ...]:
    """Returns all targets, job by job."""
    return (*_classification(), *_detection(), *_segmentation(), *_files(), *_cold_start(), *_memory())


def _classification() -> Iterator[Target]:
    times: dict[Precision, float] = {"fp32": 2.8, "int8": 5.0}
    for precision, least in times.items():
        ours = Pick("whole", "mbv2kit", precision)
        yield Target(
            text=f"{precision}, one image: speed-up over torchvision",
            job="classification",
            case="batch 1",
            ours=ours,
            other=Pick("network", name=TORCHVISION),
            at_least=least,
        )
        for case in ("batch 1", "batch 32"):
            for measure, inputs in (("whole", "uint8 images"), ("network", "preprocessed floats")):
                yield Target(
                    text=f"{precision}, {case}: speed-up over the fastest runtime, which starts from {inputs}",
                    job="classification",
                    case=case,
                    ours=ours,
                    other=Pick(measure, "runtime", precision),
                    at_least=_AS_FAST,
                )


def _detection() -> Iterator[Target]:
    for threshold in THRESHOLDS:
        for other, least in ((SSDLITE, 3.0), (YOLO, 2.0)):
            yield Target(
                text=f"fp32, scores above {threshold}: speed-up over {other}",
                job="detection",
                case=f"threshold {threshold}",
                ours=Pick("whole", "mbv2kit", "fp32"),
                other=Pick("whole", name=other),
                at_least=least,
            )
    for precision in ("fp32", "int8"):
        yield Target(
            text=f"{precision}, scores above 0.05: share of the time after the network",
            job="detection",
            case="threshold 0.05",
            ours=Pick("after", "mbv2kit", precision, fastest_by="whole"),
            other=Pick("whole", "mbv2kit", precision),
            at_most=0.15,
        )


def _segmentation() -> Iterator[Target]:
    yield Target(
        text="fp32, to the mask: speed-up over transformers to its small logits",
        job="segmentation",
        case=AT_513,
        ours=Pick("whole", "mbv2kit", "fp32"),
        other=Pick("network", name=TRANSFORMERS),
        at_least=2.5,
    )
    yield Target(
        text="int8, to the mask: speed-up over LiteRT",
        job="segmentation",
        case=AT_513,
        ours=Pick("whole", "mbv2kit", "int8"),
        other=Pick("whole", name=QUANTIZED),
        at_least=1.0,
    )


def _files() -> Iterator[Target]:
    pairs = (("hd", SCRIPT, 6.0), ("hd", YOLO_PREDICT, 5.0), ("hd", BY_HAND, 1.3), ("plain", SCRIPT, 5.0))
    for case, other, least in pairs:
        for measure in ("steady", "process"):
            yield Target(
                text=f"{case} files, {measure}: speed-up over {other}",
                job="files",
                case=case,
                ours=Pick(measure, "mbv2kit"),
                other=Pick(measure, name=other),
                at_least=least,
            )


def _cold_start() -> Iterator[Target]:
    yield Target(
        text="time over that of importing torch",
        job="cold_start",
        case="one image",
        ours=Pick("process", "mbv2kit"),
        other=Pick("process", name=IMPORT_TORCH),
        at_most=0.4,
    )
    for other in (SCRIPT, YOLO_PREDICT):
        yield Target(
            text=f"speed-up over {other}",
            job="cold_start",
            case="one image",
            ours=Pick("process", "mbv2kit"),
            other=Pick("process", name=other),
            at_least=4.0,
        )


def _memory() -> Iterator[Target]:
    long = peak_of(LONG)
    yield Target(
        text=f"peak megabytes, {long}",
        job="memory",
        case="peak",
        ours=Pick(long, "mbv2kit"),
        other=None,
        at_most=300.0,
    )
    yield Target(
        text=f"peak of {long} over that of {MANY}",
        job="memory",
        case="peak",
        ours=Pick(long, "mbv2kit"),
        other=Pick(peak_of(MANY), "mbv2kit", fastest_by=long),
        at_most=_SAME_MEMORY,
    )


def main(path: Path) -> int:
    """Prints which targets a run meets; returns 1 if it misses any, else 0."""
    verdicts = judge(targets(), Results.load(path))
    for verdict in verdicts:
        target, value = verdict.target, verdict.value
        other = f" over {verdict.other}" if verdict.other else ""
        print(
            f"{'met   ' if verdict.met else 'MISSED'} {target.job}, {target.text}: {target.limit}, found "
            f"{short(value.median)} ({short(value.low)}-{short(value.high)}), {verdict.ours}{other}"
        )
    missed = sum(not verdict.met for verdict in verdicts)
    print(f"{len(verdicts) - missed} of {len(verdicts)} targets met; {len(targets()) - len(verdicts)} not measured.")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
