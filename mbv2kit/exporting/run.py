"""Exports a model and checks the file: the job of ``mbv2kit export``."""

from dataclasses import dataclass, fields, replace
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbv2kit.cli.console import open_console
from mbv2kit.data.joined import Joined
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.errors import UserError
from mbv2kit.evaluation import Scores
from mbv2kit.evaluation.dataset import dataset_of, meant, serves
from mbv2kit.exporting import accuracy
from mbv2kit.exporting.check import Report, check
from mbv2kit.exporting.data import ExportData, Images
from mbv2kit.exporting.files import keep, open_for_check, write
from mbv2kit.exporting.formats import FORMATS
from mbv2kit.exporting.options import ExportOptions
from mbv2kit.exporting.sensitivity import most_sensitive
from mbv2kit.exporting.triton import check_repository, lay_repository
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.torch_models import folded
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export, files_of
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import chosen_checkpoint
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.process import keep_freed_memory
from mbv2kit.structures import Task, metric_name
from mbv2kit.weights.open import open_model


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file, and how it compares with the model in PyTorch.

    Attributes:
        file: The file in its model folder; it is there only if nothing is wrong with it.
        metrics: ``megabytes``; ``milliseconds`` an image and ``torch_milliseconds``, those of the model. Of fp16 and
            int8 also the metrics of the task, such as ``top1``, and ``torch_top1``.
        problem: Why the file was not kept, in one sentence; None if it was.
    """

    file: Path
    metrics: dict[str, float]
    problem: str | None


def export(config: DictConfig) -> Exported:
    """Writes the file that a config describes, checks it and prints the results.

    No file is kept if its outputs differ from those of the model or the accuracy falls too far.

    Raises:
        UserError: The config is wrong, or a file or package that it needs is missing.
    """
    keep_freed_memory()
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    options = ExportOptions(**{key.name: values[key.name] for key in fields(ExportOptions)})
    checkpoint = chosen_checkpoint(values["checkpoint"], values["weights"])
    model, folder = open_model(checkpoint, class_names=values["class_names"])
    if values["output_stride"] is not None:
        model = model.at_output_stride(values["output_stride"])
    output = _output(values["output"], folder, checkpoint, options)
    network = ExportNetwork(model, options.size).eval()
    datasets = {head: dataset_of(values["dataset"], folder, head) for head in model.class_names}
    known = {head: dataset for head, dataset in datasets.items() if dataset is not None}
    served = {head: dataset for head, dataset in known.items() if serves(dataset, model.spec.tasks[head])}
    if values["dataset"] is not None:
        heads = meant(values["dataset"], folder, {head: model.spec.tasks[head] for head in served})
        served = {head: served[head] for head in heads}
    data = ExportData(model.spec, replace(model.preprocess, size=network.size), served or known)
    console = open_console()
    _say(console, f"Model: {folder.path if folder else checkpoint}")

    shown = data.for_check(options.pictures, options.check_pictures)
    calibration: Images | None = None
    if options.precision == "int8":
        calibration = data.calibration(options.calibration, options.calibration_pictures)
        _say(console, f"Ranges from {len(calibration.inputs)} images ({calibration.origin})")
    with TemporaryDirectory() as name:
        scratch = Path(name)
        written = write(
            network,
            scratch,
            options.file_format,
            options.precision,
            batch=options.batch,
            nms=options.nms,
            calibration=None if calibration is None else calibration.inputs,
        )
        exported = open_for_check(model, scratch, written)
        report = check(model, exported, written, shown.inputs)
        megabytes = sum(each.stat().st_size for each in files_of(scratch / written.file)) / 1e6
        _show(console, report, megabytes, written, shown)
        metrics = {
            "megabytes": megabytes,
            **dict(zip(("milliseconds", "torch_milliseconds"), report.milliseconds, strict=True)),
        }
        problem: str | None = None
        if not report.agrees:
            problem = f"The outputs of {written.file} differ from those of the model; it was not kept."
        images = data.ground_truth() if options.precision != "fp32" else None
        if images is not None:
            for head, (before, after) in _score(console, model, exported, images, options).items():
                task = images.tasks[head]
                if isnan(accuracy.loss(task, before, after)):
                    _say(console, _unmeasured(task, len(images.sources[head])))
                else:
                    metrics |= {metric_name(head, name): value for name, value in after.metrics.items()}
                    metrics |= {f"torch_{metric_name(head, name)}": value for name, value in before.metrics.items()}
                    problem = problem or _too_inaccurate(head, task, before, after, options.max_loss)
        if calibration is not None and options.sensitive_layers:
            _name_layers(console, network, calibration, options.sensitive_layers)
        file = output / written.file
        if problem is None and options.lays_repository:
            file = lay_repository(output, written, scratch, model.spec, exported.outputs(np.stack(shown.inputs[:1])))
        elif problem is None:
            keep(written, scratch, output, model.spec)
    _say(console, problem or f"Written: {file}")
    return Exported(file, metrics, problem)


def _output(named: str | None, folder: ModelFolder | None, checkpoint: str | None, options: ExportOptions) -> Path:
    if options.lays_repository:
        if named is None:
            raise UserError(f"format={options.format} lays a model repository; name the model in it: output=DIR/NAME")
        check_repository(Path(named))
        return Path(named)
    if named is None:
        if folder is None:
            raise UserError(f"checkpoint={checkpoint} is no model folder to write the file to; name one: output=DIR")
        return folder.path
    output = Path(named)
    if ModelFolder(output).exists and (folder is None or output.resolve() != folder.path.resolve()):
        raise UserError(f"output={output} holds a model; name another folder, or export that one.")
    return output


def _show(console: Console, report: Report, megabytes: float, written: Export, shown: Images) -> None:
    table = Table("compared with PyTorch", "found", "limit", title_justify="left")
    table.title = escape(f"{written.file} on {len(shown.inputs)} images ({shown.origin})")
    for finding in report.findings:
        table.add_row(finding.what, f"[{'default' if finding.kept else 'red'}]{finding.value}", finding.limit)
    table.add_row("size", f"{megabytes:.2f} MB")
    ours, torchs = report.milliseconds
    runtime = FORMATS[written.format].runtime
    table.add_row("time per image", f"{ours:.2f} ms in {runtime}, {torchs:.2f} in PyTorch: {torchs / ours:.1f} x")
    console.print(table)


def _score(
    console: Console,
    model: VisionModel,
    exported: Predictor,
    images: Joined,
    options: ExportOptions,
) -> dict[str, tuple[Scores, Scores]]:
    """Prints and returns the accuracy of each head before and after."""
    indices = evenly_spaced(len(images), options.accuracy_pictures)
    before, after = (accuracy.score(each, images, indices) for each in (folded(model), exported))
    for head in before:
        several = f", {head}" if len(before) > 1 else ""
        measured = sum(head in images.parts(index) for index in indices)
        title = f"Accuracy on {measured} images{several}"
        accuracy.print_side_by_side(console, before[head], after[head], ("PyTorch", options.precision), title)
    return {head: (before[head], after[head]) for head in before}


def _too_inaccurate(head: str, task: Task, before: Scores, after: Scores, max_loss: float) -> str | None:
    """Says by how much the accuracy fell if that is more than is allowed."""
    fall = accuracy.loss(task, before, after)
    # The metrics are fractions, and their differences have rounding errors.
    if round(fall, 9) <= max_loss:
        return None
    return (
        f"{metric_name(head, accuracy.MAIN_METRIC[task])} falls by {fall:.4f}, more than max_loss={max_loss}; the "
        "file was not kept. Fine-tune the model for int8 (experiment=qat/..., see docs/deploy.md), or allow more."
    )


def _unmeasured(task: Task, images: int) -> str:
    return (
        f"The accuracy cannot be measured: the {images:,} images of the validation split have no ground truth for "
        f"{accuracy.MAIN_METRIC[task]}. The file is judged by the comparison with PyTorch alone; name a split with "
        "ground truth (dataset.val_split=NAME) to know what it loses."
    )


def _name_layers(console: Console, network: ExportNetwork, calibration: Images, count: int) -> None:
    table = Table("layer", "change of outputs", title="Layers that lose most by int8", title_justify="left")
    for layer in most_sensitive(network, calibration.inputs, count):
        table.add_row(escape(layer.name), f"{layer.change:.3g}")
    console.print(table)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
