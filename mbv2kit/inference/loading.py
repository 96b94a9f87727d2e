"""From what a user calls a checkpoint to a predictor, in the runtime that suits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv2kit.errors import UserError, nearest
from mbv2kit.inference.exported import open_export
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.runtimes import RUNTIMES, RuntimeName
from mbv2kit.inference.runtimes.choice import candidates, choose
from mbv2kit.models.device import Device, choose_device
from mbv2kit.models.exports import SUFFIXES, Export, Precision
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import find_model
from mbv2kit.process import usable_cores
from mbv2kit.schema.amounts import parse_bytes
from mbv2kit.weights.class_names import with_class_names

if TYPE_CHECKING:
    from mbv2kit.models.vision_model import VisionModel
    from mbv2kit.splitting import SplitSession

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which model to load, and how to run it; the keys of ``conf/infer.yaml``.

    Attributes:
        checkpoint: A run, model folder, exported file, published file or name; None for the newest finished run.
        task: Which runs count where no checkpoint is named; None for all.
        class_names: Text file with the names of the classes; None for those that come with the model.
        runtime: ``auto``, ``torch`` or one of :data:`~mbv2kit.inference.runtimes.RUNTIMES`; with ``as_trained`` None is
            torch unless an exported file or its precision is named.
        precision: Precision of the exported file; None for float32 where there is such a file, else for what there is.
        threads: Cores to keep busy; None for those that this process may use.
        workers: Images to work on at a time.
        compile: Whether torch.compile generates code for this machine; for the runtime torch only.
        output_stride: Input pixels per step of the deepest map; None for that of the model.
        tta: Test-time augmentation: ``none`` or ``multiscale_flip``.
        tta_scales: Scales of ``multiscale_flip``; None for those that suit the model.
        tta_flip: Whether ``multiscale_flip`` mirrors the input as well.
        memory_budget: An amount of memory for activations, such as ``1MB``; None for no limit.
        device: What computes: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the best there is; all but the CPU run torch.
        as_trained: Whether torch runs the model with its norms unfolded, as training validates it.

    Raises:
        UserError: A value is unknown, or two of them do not go together.
    """

    checkpoint: str | None = None
    task: str | None = None
    class_names: str | None = None
    runtime: str | None = "auto"
    precision: str | None = None
    threads: int | None = None
    workers: int = 1
    compile: bool = False
    output_stride: int | None = None
    tta: str = "none"
    tta_scales: Sequence[float] | None = None
    tta_flip: bool = True
    memory_budget: str | int | None = None
    device: Device = "cpu"
    as_trained: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", choose_device(self.device))
        if self.runtime is None and self.as_trained:
            exported = self.precision is not None or self.names_export
            object.__setattr__(self, "runtime", "auto" if exported else "torch")
        if self.runtime not in ("auto", "torch", *RUNTIMES):
            known = ["auto", "torch", *RUNTIMES]
            raise UserError(f"runtime '{self.runtime}' is unknown.{nearest(str(self.runtime), known)}")
        if self.precision not in (None, *PRECISIONS):
            raise UserError(f"precision '{self.precision}' is unknown.{nearest(str(self.precision), PRECISIONS)}")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise UserError(f"threads must be a whole number from 1 up, or null for all cores, got {self.threads}.")
        if self.memory_budget is not None and self.tta != "none":
            raise UserError(f"memory_budget runs one view of an image, tta={self.tta} several; leave out one.")
        if self.memory_budget is not None and self.device != "cpu":
            raise UserError(f"memory_budget is for the memory of a CPU, and device is {self.device}; leave out one.")
        if self.compile and (self._changes_network or self.runtime != "torch"):
            raise UserError(
                "compile=true is for runtime=torch, without tta, output_stride or memory_budget; "
                f"got runtime={self.runtime}."
            )
        key = self.exported
        if self.needs_torch and key:
            raise UserError(
                f"{key} runs an exported network as it is; tta, output_stride, memory_budget and device are for "
                "runtime=torch."
            )
        if self.runtime == "torch" and key:
            raise UserError(
                f"runtime=torch runs the model in fp32, but {key} is an exported network; leave out runtime=, or name "
                f"what runs it: {', '.join(RUNTIMES)}."
            )

    @property
    def cores(self) -> int:
        """Cores to keep busy."""
        return self.threads or usable_cores()

    @property
    def exported(self) -> str | None:
        """The key that asks for an exported network, which torch does not run; None if there is none."""
        if self.runtime in RUNTIMES:
            return f"runtime={self.runtime}"
        if self.precision not in (None, "fp32"):
            return f"precision={self.precision}"
        return f"checkpoint={self.checkpoint}" if self.names_export else None

    @property
    def names_export(self) -> bool:
        """Whether the checkpoint is a file in a model folder, which may be missing."""
        path = None if self.checkpoint is None else Path(self.checkpoint)
        return path is not None and path.suffix in SUFFIXES.values() and find_model(self.checkpoint) is not None

    @property
    def needs_torch(self) -> bool:
        """Whether the model runs in a way that no exported file can."""
        return self._changes_network or self.device != "cpu"

    @property
    def _changes_network(self) -> bool:
        return self.output_stride is not None or self.tta != "none" or self.memory_budget is not None


def tta_keys(tta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a :class:`Request` that the group ``tta`` of a configuration sets."""
    # A configuration may hold anything.
    scales = tta["scales"]
    if tta["name"] == "none":
        if scales is not None or tta["flip"] is not True:
            raise UserError(
                "tta.scales and tta.flip choose the views of tta=multiscale_flip; add it, or leave them out."
            )
        return {"tta": "none"}
    listed = tuple(scales) if isinstance(scales, Sequence) and not isinstance(scales, str) else scales
    return {"tta": tta["name"], "tta_scales": listed, "tta_flip": tta["flip"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A predictor, and what a user wants to know about it.

    Attributes:
        predictor: Ready to run.
        name: What to call the model.
        folder: The model's folder, where it has one on this machine.
        notes: How it runs, a line each.
        export: The exported file that runs; None where torch runs the model.
        split: What runs the model within a budget of memory; None without a budget.
    """

    predictor: Predictor
    name: str
    folder: ModelFolder | None
    notes: list[str] = field(default_factory=list)
    export: Export | None = None
    split: "SplitSession | None" = None

    @property
    def file(self) -> Path:
        """What the model is read from; no file if its name is that of published weights."""
        if self.folder is None:
            return Path(self.name)
        return self.folder.weights if self.export is None else self.folder.path / self.export.file


def load(request: Request) -> Loaded:
    """Loads a model for inference on the CPU.

    An exported file runs without torch. torch runs a model that has none.

    Raises:
        UserError: There is no such model, file, runtime or augmentation, or something is damaged.
    """
    folder = find_model(request.checkpoint, request.task)
    exports = _exports(request, folder)
    return _in_runtime(request, folder, exports) if folder and exports else _in_torch(request)


def with_second(
    predictor: Predictor, then: str | None, margin: float, *, threads: int | None, workers: int
) -> tuple[Predictor, list[str]]:
    """Adds a model that classifies the boxes of a predictor, as the keys ``then`` and ``then_margin`` say.

    Args:
        predictor: The detector.
        then: The second model, as ``checkpoint`` names one; None for none.
        margin: What is added around a box on each side, as a share of that side.
        threads: CPU cores to use, as for a :class:`Request`.
        workers: Images that are processed at a time.

    Returns:
        The predictor, and what to say of the second model, a line each.

    Raises:
        UserError: There is a margin and no second model, or it cannot be loaded or added.
    """
    if then is None:
        if margin:
            raise UserError(f"then_margin={margin} is for the model of then=; name one, or leave it out.")
        return predictor, []
    try:
        second = load(Request(checkpoint=then, threads=threads, workers=workers))
        chained = predictor.then(second.predictor, margin=margin)
    except UserError as error:
        raise UserError(f"then={then}: {error}") from None
    return chained, [f"Then: {second.name}", *second.notes]


def _exports(request: Request, folder: ModelFolder | None) -> list[Export]:
    """Returns the exported files to choose from; none where torch runs the model."""
    if folder is None or request.needs_torch or request.runtime == "torch":
        return []
    is_export = request.names_export
    named = Path(str(request.checkpoint)).name
    exports = [export for export in folder.read_exports() if not is_export or export.file == named]
    wanted = [export for export in exports if export.precision == request.precision]
    if request.precision is None:
        wanted = [export for export in exports if export.precision == "fp32"] or exports
    if request.runtime in RUNTIMES:
        wanted = [each.export for each in candidates(wanted, request.runtime)]
    asked = is_export or request.precision is not None or request.runtime != "auto"
    if not wanted and asked:
        there = ", ".join(f"{export.file} ({export.precision})" for export in folder.read_exports()) or "none"
        keys = [f"{key}={value}" for key, value in _asked(request).items()]
        raise UserError(
            f"{folder.path} has no exported file for {' '.join([named] * is_export + keys)} (exported files: {there}); "
            f"make one with mbv2kit export checkpoint={folder.path}{_export_keys(request)}."
        )
    return wanted


def _export_keys(request: Request) -> str:
    """Returns what the command line of an export needs besides the checkpoint."""
    precision = f" precision={request.precision}" if request.precision not in (None, "fp32") else ""
    if request.runtime in RUNTIMES:
        return f" format={RUNTIMES[request.runtime].reads[0]}{precision}"
    # ONNX files are not written in fp16.
    return f" format=openvino{precision}" if request.precision == "fp16" else precision


def _asked(request: Request) -> dict[str, str]:
    asked = {"runtime": request.runtime, "precision": request.precision}
    return {key: value for key, value in asked.items() if value not in (None, "auto")}


def _in_runtime(request: Request, folder: ModelFolder, exports: list[Export]) -> Loaded:
    runtime: RuntimeName | None = None if request.runtime == "auto" else request.runtime  # type: ignore[assignment]
    found = candidates(exports, runtime, cores=request.cores, workers=request.workers)
    if not found:
        readers = [name for name, each in RUNTIMES.items() if any(export.format in each.reads for export in exports)]
        raise UserError(
            f"None of the runtimes that read the files of {folder.path} is installed; run: "
            + " or ".join(f"pip install {RUNTIMES[name].install}" for name in readers)
        )
    for export in {each.export.file: each.export for each in found}.values():
        folder.check_export(export)
    choice = choose(folder.path, found)
    chosen = choice.candidate
    spec = with_class_names(folder.read_spec(), request.class_names)
    predictor = open_export(spec, folder.path, chosen.export, chosen.runtime, chosen.threads)
    note = f"Runtime: {chosen.name}, {chosen.export.precision} ({choice.reason})"
    return Loaded(predictor=predictor, name=str(folder.path), folder=folder, notes=[note], export=chosen.export)


def _in_torch(request: Request) -> Loaded:
    # Imported here, so that an exported model starts without torch.
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(
            "Without an exported file a model needs torch and more: pip install 'mbv2kit[train]'; or run "
            "mbv2kit export where they are installed."
        ) from None

    from mbv2kit.inference import torch_models
    from mbv2kit.models.tta import check_tta
    from mbv2kit.weights.open import open_model

    check_tta(request.tta, request.tta_scales)
    model, folder = open_model(request.checkpoint, request.task, request.class_names)
    if request.output_stride is not None:
        model = model.at_output_stride(request.output_stride)
    torch.set_num_threads(max(1, request.cores // request.workers))
    source = folder.path if folder else request.checkpoint
    # A mask would not show that it was computed from NaN.
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{source}: the weights '{name}' hold NaN or infinite values; train or convert the model anew."
            )
    model = model.to(request.device)
    on_device = "" if request.device == "cpu" else f" on {request.device}"
    notes, split = [], None
    if request.memory_budget is not None:
        split = _plan(model, request.memory_budget)
        predictor, notes = torch_models.split(model, split), split.plan.describe()
    elif request.as_trained or request.tta != "none":
        model = model.to(memory_format=torch.channels_last)
        predictor = torch_models.as_trained(model, request.tta, request.tta_scales, request.tta_flip)
    else:
        predictor = torch_models.folded(model, compiled=request.compile)
        notes = [f"Runtime: torch{on_device}{', compiled' if request.compile else ''}"]
        if request.output_stride is not None:
            notes[0] += f", which output_stride={request.output_stride} needs"
        elif request.runtime == "auto" and not on_device:
            output = "" if folder else " output=DIR"
            notes[0] += f" (an exported model runs several times as fast: mbv2kit export checkpoint={source}{output})"
    return Loaded(predictor=predictor, name=str(source), folder=folder, notes=notes, split=split)


def _plan(model: "VisionModel", memory_budget: str | int) -> "SplitSession":
    from mbv2kit.splitting import SplitSession, plan_memory

    return SplitSession(model, plan_memory(model, model.preprocess.size, parse_bytes(memory_budget)))
