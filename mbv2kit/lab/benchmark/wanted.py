"""What is wanted of our models, number by number."""

from collections.abc import Iterator

from mbv2kit.lab.benchmark.competitor import Precision
from mbv2kit.lab.benchmark.goals import Goal, Pick
from mbv2kit.lab.benchmark.jobs.classification import BASELINE as TORCHVISION
from mbv2kit.lab.benchmark.jobs.detection import BASELINE as SSDLITE
from mbv2kit.lab.benchmark.jobs.detection import THRESHOLDS, YOLO
from mbv2kit.lab.benchmark.jobs.segmentation import BASELINE as TRANSFORMERS
from mbv2kit.lab.benchmark.jobs.segmentation import NAME as AT_513
from mbv2kit.lab.benchmark.jobs.segmentation import QUANTIZED
from mbv2kit.lab.benchmark.jobs.whole_programs import BY_HAND, IMPORT_TORCH, LONG, MANY, SCRIPT, peak_of
from mbv2kit.lab.benchmark.jobs.whole_programs import YOLO as YOLO_PREDICT

# Within 3 percent of the best.
_AS_FAST = 0.97
_SAME_MEMORY = 1.05


def goals() -> tuple[Goal, ...]:
    """Returns all goals, job by job."""
    return (*_classification(), *_detection(), *_segmentation(), *_files(), *_cold_start(), *_memory())


def _classification() -> Iterator[Goal]:
    times: dict[Precision, float] = {"fp32": 2.8, "int8": 5.0}
    for precision, least in times.items():
        ours = Pick("whole", "ours", precision)
        yield Goal(
            text=f"{precision}, one image: times as fast as torchvision",
            job="classification",
            case="batch 1",
            ours=ours,
            other=Pick("network", name=TORCHVISION),
            at_least=least,
        )
        for case in ("batch 1", "batch 32"):
            for measure, meaning in (("whole", "from uint8 images too"), ("network", "from ready floats")):
                yield Goal(
                    text=f"{precision}, {case}: times as fast as the best by hand, which starts {meaning}",
                    job="classification",
                    case=case,
                    ours=ours,
                    other=Pick(measure, "by hand", precision),
                    at_least=_AS_FAST,
                )


def _detection() -> Iterator[Goal]:
    for threshold in THRESHOLDS:
        for other, least in ((SSDLITE, 3.0), (YOLO, 2.0)):
            yield Goal(
                text=f"fp32, scores above {threshold}: times as fast as {other}",
                job="detection",
                case=f"threshold {threshold}",
                ours=Pick("whole", "ours", "fp32"),
                other=Pick("whole", name=other),
                at_least=least,
            )
    for precision in ("fp32", "int8"):
        yield Goal(
            text=f"{precision}, scores above 0.05: share of the time that follows the network",
            job="detection",
            case="threshold 0.05",
            ours=Pick("after", "ours", precision, fastest_by="whole"),
            other=Pick("whole", "ours", precision),
            at_most=0.15,
        )


def _segmentation() -> Iterator[Goal]:
    yield Goal(
        text="fp32, to the mask: times as fast as transformers to its small logits",
        job="segmentation",
        case=AT_513,
        ours=Pick("whole", "ours", "fp32"),
        other=Pick("network", name=TRANSFORMERS),
        at_least=2.5,
    )
    yield Goal(
        text="int8, to the mask: times as fast as LiteRT",
        job="segmentation",
        case=AT_513,
        ours=Pick("whole", "ours", "int8"),
        other=Pick("whole", name=QUANTIZED),
        at_least=1.0,
    )


def _files() -> Iterator[Goal]:
    wanted = (("hd", SCRIPT, 6.0), ("hd", YOLO_PREDICT, 5.0), ("hd", BY_HAND, 1.3), ("plain", SCRIPT, 5.0))
    for case, other, least in wanted:
        for measure in ("steady", "process"):
            yield Goal(
                text=f"{case} files, {measure}: times as fast as {other}",
                job="files",
                case=case,
                ours=Pick(measure, "ours"),
                other=Pick(measure, name=other),
                at_least=least,
            )


def _cold_start() -> Iterator[Goal]:
    yield Goal(
        text="share of the time that importing torch takes",
        job="cold_start",
        case="one image",
        ours=Pick("process", "ours"),
        other=Pick("process", name=IMPORT_TORCH),
        at_most=0.4,
    )
    for other in (SCRIPT, YOLO_PREDICT):
        yield Goal(
            text=f"times as fast as {other}",
            job="cold_start",
            case="one image",
            ours=Pick("process", "ours"),
            other=Pick("process", name=other),
            at_least=4.0,
        )


def _memory() -> Iterator[Goal]:
    long = peak_of(LONG)
    yield Goal(
        text=f"megabytes at the most, {long}",
        job="memory",
        case="peak",
        ours=Pick(long, "ours"),
        other=None,
        at_most=300.0,
    )
    yield Goal(
        text=f"peak of {long} over that of {MANY}",
        job="memory",
        case="peak",
        ours=Pick(long, "ours"),
        other=Pick(peak_of(MANY), "ours", fastest_by=long),
        at_most=_SAME_MEMORY,
    )
