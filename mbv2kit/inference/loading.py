"""From what a user calls a checkpoint to a model that is ready to see, in the runtime that suits it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mbv2kit.errors import UserError, nearest
from mbv2kit.inference.deployed import DeployedModel
from mbv2kit.inference.predictor import ImageModel
from mbv2kit.inference.runtimes import RUNTIMES, RuntimeName, open_session
from mbv2kit.inference.runtimes.choice import candidates, choose
from mbv2kit.models.exports import SUFFIXES, Export, Precision, read_exports
from mbv2kit.models.spec import ModelSpec, read_spec
from mbv2kit.process import usable_cores
from mbv2kit.runs import find_model

if TYPE_CHECKING:
    from mbv2kit.models.vision_model import VisionModel
    from mbv2kit.splitting import SplitModel

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which model to load, and how it shall see; the keys of ``conf/infer.yaml``.

    Attributes:
        checkpoint: A run, model folder, exported file, published file or name; None for the newest finished run.
        task: Which runs count where no checkpoint is named; None for all.
        runtime: ``auto``, ``torch`` or one of :data:`~mbv2kit.inference.runtimes.RUNTIMES`.
        precision: Of the exported file; None for float32 where there is such a file, and else for what there is.
        threads: How many may work at a time; None for the cores that this process may use.
        workers: How many images are worked on at a time.
        compile: Whether torch.compile makes code for this machine; of the runtime torch alone.
        output_stride: Input pixels per step of the deepest map; None for that of the model.
        min_score: Boxes below it are of no use to the caller, 0..1.
        tta: Test-time augmentation, as :func:`mbv2kit.models.tta.augmented` knows it.
        memory_budget: An amount of memory such as ``1MB``, within which to run; None for no limit.

    Raises:
        UserError: A value is unknown, or two of them do not go together.
    """

    checkpoint: str | None = None
    task: str | None = None
    runtime: str = "auto"
    precision: str | None = None
    threads: int | None = None
    workers: int = 1
    compile: bool = False
    min_score: float = 0.0
    output_stride: int | None = None
    tta: str = "none"
    memory_budget: str | int | None = None

    def __post_init__(self) -> None:
        if self.runtime not in ("auto", "torch", *RUNTIMES):
            raise UserError(
                f"runtime '{self.runtime}' is unknown.{nearest(self.runtime, ['auto', 'torch', *RUNTIMES])}"
            )
        if self.precision not in (None, *PRECISIONS):
            raise UserError(f"precision '{self.precision}' is unknown.{nearest(str(self.precision), PRECISIONS)}")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise UserError(f"threads must be a whole number from 1 up, or null for all cores, got {self.threads}.")
        if self.memory_budget is not None and self.tta != "none":
            raise UserError(f"memory_budget runs one view of an image, tta={self.tta} needs several; leave out one.")
        if self.compile and (self.needs_torch or self.runtime != "torch"):
            raise UserError(
                "compile=true is for runtime=torch, without tta, output_stride or memory_budget; "
                f"got runtime={self.runtime}."
            )
        if self.needs_torch and self.runtime not in ("auto", "torch"):
            raise UserError(
                f"runtime={self.runtime} runs an exported network as it is; tta, output_stride and memory_budget are "
                "for runtime=torch."
            )

    @property
    def cores(self) -> int:
        """How many cores may be kept busy."""
        return self.threads or usable_cores()

    @property
    def wants_export(self) -> bool:
        """Whether an exported file is asked for: by its name, its runtime or its precision."""
        named = self.checkpoint is not None and Path(self.checkpoint).suffix in SUFFIXES.values()
        return (
            (named and find_model(self.checkpoint) is not None) or self.precision is not None or self.runtime != "torch"
        )

    @property
    def needs_torch(self) -> bool:
        """Whether the model shall run in a way that no exported file can."""
        return self.output_stride is not None or self.tta != "none" or self.memory_budget is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is ready to see.

    Attributes:
        model: What sees.
        spec: What it is.
        name: What to call it.
        folder: Its folder, where it is one of ours on this machine.
        runtime: What runs it, and which file.
        notes: What a user wants to know about how it runs, a line each.
        split: The same model where it runs within a budget of memory.
    """

    model: ImageModel
    spec: ModelSpec
    name: str
    folder: Path | None
    runtime: str = "torch"
    notes: list[str] = field(default_factory=list)
    split: "SplitModel | None" = None


def load_model(request: Request) -> Loaded:
    """Loads a model for inference on the CPU.

    An exported file runs without torch. Where the model has none, torch runs it.

    Raises:
        UserError: There is no such model, file, runtime or augmentation, or something is damaged.
    """
    folder = find_model(request.checkpoint, request.task)
    exports = _exports(request, folder)
    if folder is not None and exports:
        return _open_export(request, folder, exports)
    return _open_in_torch(request)


def _exports(request: Request, folder: Path | None) -> list[Export]:
    """Returns the exported files to choose from; none where torch shall run the model."""
    named = Path(request.checkpoint).name if request.checkpoint and Path(request.checkpoint).is_file() else None
    is_export = named is not None and Path(named).suffix in SUFFIXES.values()
    if folder is None or request.needs_torch or (request.runtime == "torch" and not is_export):
        return []
    exports = [export for export in read_exports(folder) if not is_export or export.file == named]
    wanted = [export for export in exports if export.precision == request.precision]
    if request.precision is None:
        wanted = [export for export in exports if export.precision == "fp32"] or exports
    if request.runtime in RUNTIMES:
        wanted = [each.export for each in candidates(wanted, request.runtime)]
    asked = is_export or request.precision is not None or request.runtime != "auto"
    if not wanted and asked:
        there = ", ".join(f"{export.file} ({export.precision})" for export in exports) or "none"
        keys = [f"{key}={value}" for key, value in _asked(request).items()]
        raise UserError(
            f"{folder} has no exported file for {' '.join(keys) or named} (exported files: {there}); make one with "
            f"python tools/export.py checkpoint={folder}."
        )
    return wanted


def _asked(request: Request) -> dict[str, str]:
    asked = {"runtime": request.runtime, "precision": request.precision}
    return {key: value for key, value in asked.items() if value not in (None, "auto")}


def _open_export(request: Request, folder: Path, exports: list[Export]) -> Loaded:
    runtime: RuntimeName | None = None if request.runtime == "auto" else request.runtime  # type: ignore[assignment]
    found = candidates(exports, runtime, cores=request.cores, workers=request.workers)
    if not found:
        readers = [name for name, each in RUNTIMES.items() if any(export.format in each.reads for export in exports)]
        raise UserError(
            f"None of the runtimes that read the files of {folder} is installed; run: "
            + " or ".join(f"pip install {RUNTIMES[name].install}" for name in readers)
        )
    choice = choose(folder, found)
    chosen, spec = choice.candidate, read_spec(folder)
    model = DeployedModel(
        spec,
        partial(open_session, chosen.runtime, folder, chosen.export),
        chosen.threads,
        size=chosen.export.size,
        batch=chosen.export.batch,
        nms_options=chosen.export.nms_options and chosen.export.nms_options.at_least(request.min_score),
    )
    note = f"Runtime: {chosen.name}, {chosen.export.precision} ({choice.reason})"
    return Loaded(model=model, spec=spec, name=str(folder), folder=folder, runtime=chosen.name, notes=[note])


def _open_in_torch(request: Request) -> Loaded:
    # Loaded here, so that a model that was exported starts without torch.
    import torch

    from mbv2kit.inference.in_torch import TensorModel, deploy
    from mbv2kit.models.tta import MultiScaleFlip, check_tta
    from mbv2kit.weights.open import open_model

    check_tta(request.tta)
    whole, folder = open_model(request.checkpoint, request.task)
    if request.output_stride is not None:
        whole = whole.at_output_stride(request.output_stride)
    torch.set_num_threads(max(1, request.cores // request.workers))
    loaded = partial(Loaded, spec=whole.spec, name=str(folder or request.checkpoint), folder=folder)
    if request.memory_budget is not None:
        return _split(whole, request.memory_budget, loaded)
    if request.tta != "none":
        return loaded(model=TensorModel(MultiScaleFlip(whole)))
    note = "Runtime: torch, compiled" if request.compile else "Runtime: torch"
    if request.runtime == "auto":
        source = folder or request.checkpoint
        note += f" (an exported model runs several times as fast: python tools/export.py checkpoint={source})"
    return loaded(model=deploy(whole, compiled=request.compile, min_score=request.min_score), notes=[note])


def _split(model: "VisionModel", memory_budget: str | int, loaded: Callable[..., Loaded]) -> Loaded:
    from mbv2kit.inference.in_torch import TensorModel
    from mbv2kit.splitting import SplitModel, plan_memory
    from mbv2kit.splitting.budget import parse_bytes

    split = SplitModel(model, plan_memory(model, model.input.size, parse_bytes(memory_budget)))
    return loaded(model=TensorModel(split), notes=split.plan.describe(), split=split)
