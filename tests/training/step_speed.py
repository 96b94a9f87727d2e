"""Times training steps on batches in memory: runs of this project, and torchvision's models in loops of their own.

python -m tests.training.step_speed classification      or detection, or segmentation

Each competitor is a process that takes a step when it is told to; they take turns. The runs are whole ones, Lightning's
loop with the guard and the moving average. `kept` keeps freed memory, as this project does; `default` leaves that to
glibc. Peak memory is that of each process.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

from mbv2kit.process import configure_threads, keep_freed_memory

# Side of the input, images in a batch, classes, and the head.
SETTINGS = {
    "classification": (224, 32, 1000, "classifier"),
    "detection": (320, 8, 80, "ssdlite"),
    "segmentation": (321, 4, 21, "deeplab_v3"),
}
LAYOUTS = ("contiguous", "channels_last")
COMPETITORS = (
    "run",
    "the same model in a loop",
    *(f"torchvision {layout} {memory}" for memory in ("kept", "default") for layout in LAYOUTS),
)
WARM_UP, ROUNDS = 3, 15


def wait_for_turn() -> None:
    """Blocks until the parent gives the turn, and ends where it is over."""
    if not sys.stdin.readline():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"{peak:.0f}", flush=True)
        raise SystemExit


def take_turns(step: Callable[[], None]) -> None:
    """Takes a step each time that it is told to, and prints its seconds."""
    while True:
        wait_for_turn()
        start = perf_counter()
        step()
        print(perf_counter() - start, flush=True)


def targets_of(task: str) -> tuple[Any, dict[str, Any]]:
    """Returns uint8 images and targets of one batch: seven boxes an image, as COCO has on average."""
    import torch

    side, count, classes, _ = SETTINGS[task]
    torch.manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    if task == "classification":
        return images, {"label": torch.randint(0, classes, (count,))}
    if task == "segmentation":
        return images, {"size": (side, side), "mask": torch.randint(0, classes, (count, side, side), dtype=torch.uint8)}
    corners = [torch.rand(7, 2) * side * 0.7 for _ in range(count)]
    boxes = [torch.cat([corner, corner + 10 + torch.rand(7, 2) * side * 0.25], dim=1) for corner in corners]
    labels = [torch.randint(0, classes, (7,)) for _ in range(count)]
    crowd = [torch.zeros(7, dtype=torch.bool)] * count
    return images, {"size": (side, side), "boxes": boxes, "labels": labels, "crowd": crowd}


def run(task: str) -> None:
    """Trains as the command does, on one batch over and over."""
    import torch
    from lightning.pytorch.callbacks import LambdaCallback
    from torch.utils.data import DataLoader

    import mbv2kit
    from mbv2kit.data.datamodule import DataModule, TrainingBatch
    from mbv2kit.data.sources.shapes import Shapes
    from mbv2kit.training.fit import create_trainer

    create_source = Shapes.__init__
    images, targets = targets_of(task)
    images = images.to(memory_format=torch.channels_last)
    side, count, classes, _ = SETTINGS[task]
    batch = TrainingBatch(images, {task: {"size": (side, side), **targets}}, ["drawn"] * count)
    started = [0.0]

    def begin(*_: Any) -> None:
        if started[0]:
            print(perf_counter() - started[0], flush=True)
        wait_for_turn()
        started[0] = perf_counter()

    def with_turns(*arguments: Any) -> Any:
        trainer = create_trainer(*arguments)
        # From one batch to the next lies all that the loop does.
        trainer.callbacks.insert(0, LambdaCallback(on_train_batch_start=begin))  # type: ignore[attr-defined]
        return trainer

    @wraps(create_source)
    def with_all_classes(source: Shapes, *arguments: Any, **options: Any) -> None:
        create_source(source, *arguments, **options)
        source.class_names = tuple(f"class_{number}" for number in range(classes))

    with (
        tempfile.TemporaryDirectory() as folder,
        patch("mbv2kit.training.run.create_trainer", with_turns),
        patch.object(Shapes, "__init__", with_all_classes),
        patch.object(DataModule, "train_dataloader", lambda _: DataLoader([batch] * 1000, batch_size=None)),  # type: ignore[arg-type]
    ):
        numbers = {"dataset.train_count": 1000 * count, "dataset.val_count": 8, "dataset.size": 64}
        shared = {"export": False, "loader.workers": 0, "loader.batch_size": count, "input.size": [side, side]}
        mbv2kit.train(
            task=task, dataset="shapes", run_dir=f"{folder}/run", **{"trainer.progress_bar": False}, **numbers, **shared
        )


def own_loop(task: str) -> None:
    """Trains the network of a run in a plain loop, without guard and average."""
    import torch

    from mbv2kit.imaging.preprocess import Preprocess
    from mbv2kit.models.spec import ModelSpec
    from mbv2kit.models.vision_model import VisionModel
    from mbv2kit.training.optimizers import create_optimizer

    keep_freed_memory()
    images, targets = targets_of(task)
    images = images.to(memory_format=torch.channels_last)
    side, _, classes, head = SETTINGS[task]
    stride = 16 if task == "segmentation" else 32
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "output_stride": stride},
        heads={task: {"name": head}},
        class_names={task: tuple(map(str, range(classes)))},
        input=Preprocess(size=(side, side), resize="stretch"),
    )
    model = VisionModel(spec).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer(model, {"name": "adamw"})

    def step() -> None:
        optimizer.zero_grad()
        terms = model.heads[task].loss(model(images)[task], targets)
        sum(terms.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    take_turns(step)


def torchvision_loop(task: str, layout: str, memory: str) -> None:
    """Trains torchvision's model for the task in a plain loop, on images that are normalized already."""
    import torch
    from torch.nn import functional as F
    from torchvision.models import mobilenet_v2
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    if memory == "kept":
        keep_freed_memory()
    images, targets = targets_of(task)
    inputs = images.float() / 127.5 - 1
    classes = SETTINGS[task][2]
    model: torch.nn.Module
    if task == "classification":
        model = mobilenet_v2(num_classes=classes)
    elif task == "detection":
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes + 1)
    else:
        model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
    if layout == "channels_last":
        model, inputs = model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loss() -> torch.Tensor:
        if task == "classification":
            return F.cross_entropy(model(inputs), targets["label"])
        if task == "segmentation":
            return F.cross_entropy(model(inputs)["out"], targets["mask"].long())
        objects = [
            {"boxes": boxes, "labels": labels + 1}
            for boxes, labels in zip(targets["boxes"], targets["labels"], strict=True)
        ]
        terms: dict[str, torch.Tensor] = model(list(inputs.unbind()), objects)
        return torch.stack(list(terms.values())).sum()

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    take_turns(step)


def compete(task: str, competitor: str) -> None:
    """Is one competitor, in a process of its own."""
    configure_threads()
    if competitor == "run":
        run(task)
    elif competitor.startswith("torchvision"):
        _, layout, memory = competitor.split()
        torchvision_loop(task, layout, memory)
    else:
        own_loop(task)


def measure(task: str, competitors: Sequence[str]) -> None:
    """Lets the competitors take turns, and prints images a second, their ratio to the run, and peak memory."""
    words = [sys.executable, "-m", "tests.training.step_speed", "--compete", task]
    processes = [
        subprocess.Popen(
            [*words, each], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
        for each in competitors
    ]

    def turn(process: "subprocess.Popen[str]") -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    times: list[list[float]] = [[] for _ in competitors]
    for place in range(WARM_UP + ROUNDS):
        for values, process in zip(times, processes, strict=True):
            values.append(turn(process))
        print(f"round {place + 1} of {WARM_UP + ROUNDS}", file=sys.stderr, flush=True)
    count = SETTINGS[task][1]
    for competitor, values, process in zip(competitors, times, processes, strict=True):
        peak = process.communicate()[0].split()[-1]
        ratios = [first / own for first, own in zip(times[0][WARM_UP:], values[WARM_UP:], strict=True)]
        speed = count / median(values[WARM_UP:])
        print(f"{competitor:40s} {speed:6.2f} images/s  {median(ratios):.3f} of the run  {peak} MB", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--compete":
        compete(*sys.argv[2:])
    else:
        measure(sys.argv[1], sys.argv[2:] or COMPETITORS)
