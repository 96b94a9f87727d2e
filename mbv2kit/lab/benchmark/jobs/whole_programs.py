"""Programs that classify image files, as whole processes: throughput, start and memory."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case, FinishedProcess, ProgramCompetitor
from mbv2kit.lab.benchmark.jobs.models import Model

SCRIPT = "Pillow + torchvision"
YOLO = "ultralytics predict"
BY_HAND = "simplejpeg + ONNX Runtime int8"
IMPORT_TORCH = "import torch"
FEW, MANY, LONG = 20, 200, 5000
# A round of all programs takes a minute.
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


def file_cases(models: Sequence[Model], infer_options: Sequence[Sequence[str]]) -> list[Case]:
    """Returns the cases from files to predictions: large images, and images as data sets have them.

    Args:
        models: Classifiers of mbv2kit.
        infer_options: Sets of keys for ``mbv2kit infer``, each a competitor.
    """
    titles = {"hd": "JPEG files of 1920 x 1080", "plain": "JPEG files of original size"}
    return [
        Case(
            job="files",
            name=images,
            title=f"From {MANY} {title} to lines of JSON",
            baseline=(SCRIPT, "steady"),
            competitors=_competitors(models, infer_options, {"few": f"{images}_{FEW}", "many": f"{images}_{MANY}"}),
            evaluate=throughput,
            rounds=_FILE_ROUNDS,
            warm=("few",),
            notes=(
                f"Times are per image. steady: from the difference between {MANY} and {FEW} images, so without the "
                f"start; process: the whole process with {MANY} images.",
            ),
        )
        for images, title in titles.items()
    ]


def cold_start_cases(models: Sequence[Model], infer_options: Sequence[Sequence[str]]) -> list[Case]:
    """Returns the case of one image in a new process."""
    torch = ProgramCompetitor(
        name=IMPORT_TORCH,
        group="library",
        library="torch",
        needs=("torch",),
        commands={"whole": ["{python}", "-c", "import torch"]},
    )
    return [
        Case(
            job="cold_start",
            name="one image",
            title="One image in a new process",
            baseline=(IMPORT_TORCH, "process"),
            competitors=[torch, *_competitors(models, infer_options, {"whole": "plain_1"})],
            evaluate=whole_process,
            warm=("whole",),
        )
    ]


def memory_cases(models: Sequence[Model], infer_options: Sequence[Sequence[str]]) -> list[Case]:
    """Returns the case of memory for few and for many images."""
    competitors = _mbv2kit(models, infer_options, {str(MANY): f"hd_{MANY}", str(LONG): f"hd_{LONG}"})
    return [
        Case(
            job="memory",
            name="peak",
            title="Peak memory of mbv2kit infer, images of 1920 x 1080",
            unit="MB",
            baseline=(competitors[0].name if competitors else "", peak_of(MANY)),
            competitors=competitors,
            evaluate=peaks,
            rounds=1,
        )
    ]


def throughput(done: Mapping[str, FinishedProcess]) -> dict[str, float]:
    """Returns seconds per image, without and with the start of the process."""
    few, many = done["few"].seconds, done["many"].seconds
    return {"steady": (many - few) / (MANY - FEW), "process": many / MANY}


def whole_process(done: Mapping[str, FinishedProcess]) -> dict[str, float]:
    """Returns the seconds of the process."""
    return {"process": done["whole"].seconds}


def peak_of(images: int) -> str:
    """Returns the name of the measure of peak memory."""
    return f"{images} images"


def peaks(done: Mapping[str, FinishedProcess]) -> dict[str, float]:
    """Returns the peak memory of each process in MB."""
    return {peak_of(int(images)): each.megabytes for images, each in done.items()}


def _competitors(
    models: Sequence[Model], infer_options: Sequence[Sequence[str]], folders: Mapping[str, str]
) -> list[ProgramCompetitor]:
    """Returns a competitor for each script and each set of infer options, with a command for each folder of images."""
    competitors = []
    for name, library, program, needs, network in _SCRIPTS:
        network_argument = [f"{{{network}}}"] if network else []
        competitors.append(
            ProgramCompetitor(
                name=name,
                group="runtime" if network else "library",
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
    return [*competitors, *_mbv2kit(models, infer_options, folders)]


def _mbv2kit(
    models: Sequence[Model], infer_options: Sequence[Sequence[str]], folders: Mapping[str, str]
) -> list[ProgramCompetitor]:
    return [
        ProgramCompetitor(
            name=" ".join([f"{model.label}mbv2kit infer", *options]),
            group="mbv2kit",
            precision="int8" if "precision=int8" in options else "fp16" if "precision=fp16" in options else "fp32",
            library="mbv2kit",
            assets=tuple(folders.values()),
            commands={
                key: [
                    sys.executable,
                    # What the console script does; other environments may lack the script.
                    "-c",
                    "from mbv2kit.commands import main; main()",
                    "infer",
                    f"{{{folder}}}",
                    f"checkpoint={model.folder}",
                    "save_images=false",
                    "output={output}/found",
                    *options,
                ]
                for key, folder in folders.items()
            },
        )
        for model in models
        for options in infer_options
    ]
