"""Programs that see files, as whole processes: their throughput, their start and their memory."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case, Commands, Finished
from mbv2kit.lab.benchmark.jobs.models import Model
from mbv2kit.lab.benchmark.workers import ROOT

SCRIPT = "Pillow + torchvision"
YOLO = "ultralytics predict"
BY_HAND = "simplejpeg + ONNX Runtime int8"
IMPORT_TORCH = "import torch"
FEW, MANY, LONG = 20, 200, 5000
# One round of all programs takes a minute.
_FILE_ROUNDS = 5
_PROGRAMS = Path(__file__).parents[1] / "programs"

# name, library, program, packages, exported network
_SCRIPTS = (
    (SCRIPT, "torchvision", "torchvision_script", ("torch", "torchvision", "PIL"), None),
    ("transformers pipeline", "transformers", "transformers_pipeline", ("torch", "transformers", "torchvision"), None),
    (YOLO, "ultralytics", "ultralytics_predict", ("torch", "ultralytics"), None),
    ("OpenCV + ONNX Runtime", "onnxruntime", "cv2_onnxruntime", ("cv2", "onnxruntime"), "mobilenet_v2_b1.onnx"),
    (
        BY_HAND,
        "onnxruntime",
        "simplejpeg_onnxruntime",
        ("cv2", "onnxruntime", "simplejpeg"),
        "mobilenet_v2_int8_b1.onnx",
    ),
)


def file_cases(models: Sequence[Model], ways: Sequence[Sequence[str]]) -> list[Case]:
    """Lists the cases of files to answers: large images, and images as data sets have them.

    Args:
        models: Our classifiers.
        ways: Keys of ``tools/infer.py`` with which each of them is run.
    """
    titles = {"hd": "JPEG files of 1920 x 1080", "plain": "JPEG files as they are"}
    return [
        Case(
            job="files",
            name=images,
            title=f"From {MANY} {title} to lines of JSON",
            baseline=(SCRIPT, "steady"),
            competitors=_competitors(models, ways, {"few": f"{images}_{FEW}", "many": f"{images}_{MANY}"}),
            evaluate=throughput,
            rounds=_FILE_ROUNDS,
            warm=("few",),
            notes=(
                f"Times are those of one image. steady: the time of {MANY} less that of {FEW}; process: the whole "
                f"process with {MANY} images, start included.",
            ),
        )
        for images, title in titles.items()
    ]


def cold_start_cases(models: Sequence[Model], ways: Sequence[Sequence[str]]) -> list[Case]:
    """Lists the case of one image by a fresh process."""
    torch = Commands(
        name=IMPORT_TORCH,
        group="peer",
        library="torch",
        needs=("torch",),
        commands={"whole": ["{python}", "-c", "import torch"]},
    )
    return [
        Case(
            job="cold_start",
            name="one image",
            title="One image, the whole process",
            baseline=(IMPORT_TORCH, "process"),
            competitors=[torch, *_competitors(models, ways, {"whole": "plain_1"})],
            evaluate=whole_process,
            warm=("whole",),
        )
    ]


def memory_cases(models: Sequence[Model], ways: Sequence[Sequence[str]]) -> list[Case]:
    """Lists the case of memory over few and over many images."""
    ours = _ours(models, ways, {str(MANY): f"hd_{MANY}", str(LONG): f"hd_{LONG}"})
    return [
        Case(
            job="memory",
            name="peak",
            title="The most memory of tools/infer.py, images of 1920 x 1080",
            unit="MB",
            baseline=(ours[0].name if ours else "", peak_of(MANY)),
            competitors=ours,
            evaluate=peaks,
            rounds=1,
        )
    ]


def throughput(done: Mapping[str, Finished]) -> dict[str, float]:
    """Returns seconds an image, without and with the start of the process."""
    few, many = done["few"].seconds, done["many"].seconds
    return {"steady": (many - few) / (MANY - FEW), "process": many / MANY}


def whole_process(done: Mapping[str, Finished]) -> dict[str, float]:
    """Returns the seconds of the process."""
    return {"process": done["whole"].seconds}


def peak_of(images: int) -> str:
    """Returns the name of the measure of a peak."""
    return f"{images} images"


def peaks(done: Mapping[str, Finished]) -> dict[str, float]:
    """Returns the peak of each process in MB."""
    return {peak_of(int(images)): each.megabytes for images, each in done.items()}


def _competitors(models: Sequence[Model], ways: Sequence[Sequence[str]], folders: Mapping[str, str]) -> list[Commands]:
    """Returns a competitor for each script and for each of our ways, with a command for each folder of images."""
    competitors = []
    for name, library, program, needs, network in _SCRIPTS:
        network_argument = [f"{{{network}}}"] if network else []
        competitors.append(
            Commands(
                name=name,
                group="by hand" if network else "peer",
                precision="int8" if name == BY_HAND else "fp32",
                library=library,
                needs=needs,
                assets=(*folders.values(), *([network] if network else [])),
                commands={
                    key: ["{python}", str(_PROGRAMS / f"{program}.py"), f"{{{folder}}}", "{output}", *network_argument]
                    for key, folder in folders.items()
                },
            )
        )
    return [*competitors, *_ours(models, ways, folders)]


def _ours(models: Sequence[Model], ways: Sequence[Sequence[str]], folders: Mapping[str, str]) -> list[Commands]:
    return [
        Commands(
            name=" ".join([f"{model.label}tools/infer.py", *way]),
            group="ours",
            precision="int8" if "precision=int8" in way else "fp16" if "precision=fp16" in way else "fp32",
            library="mbv2kit",
            assets=tuple(folders.values()),
            commands={
                key: [
                    sys.executable,
                    str(ROOT / "tools" / "infer.py"),
                    f"{{{folder}}}",
                    f"checkpoint={model.folder}",
                    "save_images=false",
                    "output={output}/found",
                    *way,
                ]
                for key, folder in folders.items()
            },
        )
        for model in models
        for way in ways
    ]
