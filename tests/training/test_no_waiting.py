"""No step makes the host wait for the device: on a GPU that torch imagines, and in a run on this processor.

torch computes the shapes of tensors on a GPU that is not there, and refuses whatever needs their values. It lets copies
between host and device pass, also those that wait; a mode that sees every operation finds them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import mbv2kit
from mbv2kit.data.datamodule import TrainingBatch
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel, copy_to_meta
from mbv2kit.nn.tensors import tensors_in
from mbv2kit.structures import Task
from mbv2kit.training import fit
from mbv2kit.training.ema import WeightAverage
from mbv2kit.training.guard import StepGuard
from mbv2kit.training.losses import StepLosses
from mbv2kit.training.optimizers import create_optimizer, hold_back
from mbv2kit.training.weighting import FixedWeights

SIZE = (97, 97)
HEADS: dict[str, tuple[Task, dict[str, Any]]] = {
    "classifier": ("classification", {}),
    "ssdlite": ("detection", {"anchor_steps": [None, 32, None, None, None, None]}),
    "ssd": ("detection", {"scores": "sigmoid"}),
    "yolo_v2": ("detection", {}),
    "deeplab_v3": ("segmentation", {"class_weights": [1.0, 2.0, 3.0], "aspp": True}),
}
# Each returns a value, or a result whose size is one.
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation."""
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        chosen_by_mask = name in ("index", "index_put", "index_put_") and any(
            tensor is not None and tensor.dtype == torch.bool for tensor in args[1]
        )
        devices = {tensor.device.type for tensor in tensors_in((args[:2], result)) if "copy" in name}
        waits_to_copy = len(devices) > 1 and not (kwargs or {}).get("non_blocking")
        if name in ASKING or chosen_by_mask or waits_to_copy:
            self.waits.append(func.__name__)
        return result


def batch_of(task: Task) -> TrainingBatch:
    """A batch of two images, one of which has no object."""
    targets: dict[Task, dict[str, Any]] = {
        "classification": {"label": torch.tensor([0, 1])},
        "segmentation": {"mask": torch.zeros(2, *SIZE, dtype=torch.uint8)},
        "detection": {
            "boxes": [torch.tensor([[1.0, 2.0, 40.0, 50.0], [5.0, 5.0, 20.0, 20.0]]), torch.zeros(0, 4)],
            "labels": [torch.tensor([0, 1]), torch.zeros(0, dtype=torch.int64)],
            "crowd": [torch.tensor([False, True]), torch.zeros(0, dtype=torch.bool)],
        },
    }
    images = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    return TrainingBatch(images, {task: {"size": SIZE, **targets[task]}}, ["a", "b"])


@pytest.fixture
def imagined_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Lets torch compute shapes on a GPU."""
    # Memory that a GPU reads by itself needs one.
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        yield watch


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_step_on_a_gpu_never_waits(name: str, request: pytest.FixtureRequest) -> None:
    task, options = HEADS[name]
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={task: {"name": name, **options}},
        class_names={task: ("a", "b", "c")},
        input=Preprocess(size=SIZE, resize="stretch"),
    )
    described = copy_to_meta(VisionModel(spec))
    watch: Watch = request.getfixturevalue("imagined_gpu")
    model = described.to_empty(device="cuda").train()
    guard, average = StepGuard(model), WeightAverage(model, 0.99)
    average.updates = torch.zeros((), dtype=torch.int64, device="cuda")
    optimizers = [create_optimizer(model, {"name": optimizer}) for optimizer in ("adamw", "rmsprop")]
    batch = batch_of(task).pin().to(torch.device("cuda"), non_blocking=True)
    watch.waits.clear()

    guard.remember()
    losses = StepLosses(model, FixedWeights({}))
    assert losses.start(batch).device.type == "cuda"
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    counts, norm = guard.check(losses.terms["loss"][0])
    assert norm.device.type == "cuda"
    for optimizer in optimizers:
        hold_back(optimizer, counts)
        optimizer.step()
    average.update(model, counts)
    assert watch.waits == []


def test_the_watch_sees_what_waits(imagined_gpu: Watch) -> None:
    there = torch.zeros(3, device="cuda")
    imagined_gpu.waits.clear()
    torch.ones_like(there, device="cpu").to("cuda")
    assert imagined_gpu.waits
    for refused in (there.sum().item, there.nonzero, lambda: there[there > 0], lambda: bool(there.sum() > 0)):
        with pytest.raises((RuntimeError, NotImplementedError)):
            refused()


class WatchSteps(Callback):
    """Watches the steps of a run, each from its batch to the weights that it moved."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.steps = 0

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Starts."""
        self.watch.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops."""
        self.watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.steps += 1


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classification", {"optimizer": "sgd", "trainer.gradient_clip_norm": 1.0}),
        ("detection", {"optimizer": "rmsprop"}),
        ("detection", {"head": "yolo_v2", "head.anchors": [[0.2, 0.2], [0.5, 0.5]]}),
        ("segmentation", {}),
        ("multitask", {"loss_weights": "uncertainty"}),
    ],
    ids=str,
)
def test_a_step_of_a_run_asks_for_no_value(
    task: str, keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = WatchSteps()
    create = fit.create_trainer

    def with_watch(*arguments: Any) -> lightning.Trainer:
        trainer = create(*arguments)
        trainer.callbacks.append(watched)  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr("mbv2kit.training.run.create_trainer", with_watch)
    shared = {"backbone.width": 0.35, "input.size": list(SIZE), "dataset.train_count": 12, "dataset.val_count": 2}
    loader = {"loader.batch_size": 4, "loader.workers": 0, "trainer.max_epochs": 1, "export": False}
    mbv2kit.train(task=task, dataset="shapes", run_dir=str(tmp_path / "run"), **shared, **loader, **keys)
    assert watched.steps == 3
    assert watched.watch.waits == []
