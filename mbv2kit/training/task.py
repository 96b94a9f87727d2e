"""The LightningModule that trains any head or set of heads."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mbv2kit.data.datamodule import EvaluationBatch, TrainingBatch
from mbv2kit.data.joined import has_ground_truth
from mbv2kit.errors import UserError, first_few
from mbv2kit.evaluation import MEAN, Evaluator, combine, create_evaluator
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import metric_name
from mbv2kit.training.checkpoints import between_epochs
from mbv2kit.training.ema import WeightAverage
from mbv2kit.training.finetune import FineTuning
from mbv2kit.training.gradients import GradientCombination, Method
from mbv2kit.training.guard import KEPT, Step, StepGuard
from mbv2kit.training.late import LateValues
from mbv2kit.training.losses import StepLosses
from mbv2kit.training.optimizers import create_optimizer, hold_back
from mbv2kit.training.pulls import measure_pulls
from mbv2kit.training.qat import FloatTraining
from mbv2kit.training.schedules import Schedule
from mbv2kit.training.weighting import FixedWeights, UncertaintyWeights

_log = logging.getLogger(__name__)


class VisionTask(lightning.LightningModule):
    """Trains a VisionModel on the targets in the batches and scores it on the validation split.

    Args:
        model: Backbone and heads.
        optimizer: Config of the optimizer.
        schedule: Factor on the learning rate at each step.
        finetuning: Which layers of the backbone are frozen, and how fast the others learn.
        ema_decay: Decay of the moving average of the weights, which is then validated and saved. None disables
            averaging.
        seed: Seed of random draws in the steps, such as dropout.
        qat: Quantization-aware training, prepared for the model; None trains in floats.
        evaluator: Name and options of what computes the metrics in validation; None for the usual one of each task.
        weights: Adds up the losses of the heads; None for their sum.
        gradients: How the gradients of the heads on the backbone are combined; None adds them up.
        references: Metric of each head that counts as 1 in the mean over the heads; see :func:`combine`.
        apart: Images of each data set in a batch, if the data sets pass through the network one by one; None if all
            images of a batch do together.
        accumulate: Parts of a batch that pass through the network one after another, to need less memory.
    """

    def __init__(
        self,
        model: VisionModel,
        *,
        optimizer: Mapping[str, Any],
        schedule: Schedule,
        finetuning: FineTuning,
        ema_decay: float | None,
        seed: int,
        qat: FloatTraining | None = None,
        evaluator: Mapping[str, Any] | None = None,
        weights: FixedWeights | UncertaintyWeights | None = None,
        gradients: Method | None = None,
        references: Mapping[str, float] | None = None,
        apart: Sequence[int] | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = weights or FixedWeights({})
        self.average = WeightAverage(model, ema_decay) if ema_decay is not None else None
        self._qat = qat or FloatTraining()
        self.int8 = self._qat.simulation
        # A skipped step must not have changed the ranges of the activations either.
        self.guard = StepGuard(nn.ModuleList([model, self.int8, self.weights]))
        self._still = finetuning.freeze(model)
        self._optimizer = create_optimizer(model, optimizer, finetuning.backbone_lr, self.weights.parameters())
        self._schedule = schedule
        self._seed = seed
        self._combination = None
        if gradients is not None:
            own = [*model.heads.parameters(), *self.weights.parameters()]
            self._combination = GradientCombination(gradients, model.backbone.parameters(), own)
        self._evaluator = evaluator
        self._scored = finetuning.train_only
        self._references = references or {}
        self._losses = StepLosses(model, self.weights, accumulate, apart)
        # The metrics that sum up those of several heads.
        self.headline: tuple[str, ...] = ()
        # How the heads pull at the layers that they share, measured in the first step of the epoch.
        self._pulls: dict[str, Tensor] = {}
        self._evaluators: dict[str, Evaluator] = {}
        self._batch: TrainingBatch | None = None
        self._step_counts = torch.ones((), dtype=torch.bool)
        # Loss and gradient norm of a step, then its terms, whose names and numbers of images are sent along.
        self._late = LateValues[tuple[Step, dict[str, int]]](self._receive)
        self.last_loss: float | None = None
        self._scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
        self._steps_per_epoch = schedule.steps_per_epoch
        # Sums over the images of the epoch so far, and their number. Lightning's own means forget the steps before a
        # resume.
        self._sums: dict[str, float] = {}
        self._images: dict[str, int] = {}

    @property
    def deployed(self) -> VisionModel:
        """The model to validate and save: the moving average if there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.model, VisionModel)
        return self.average.model

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer and a scheduler that evaluates the factor at each step."""
        schedule = self._schedule
        # A lambda keeps the schedule itself out of the checkpoint, so that a resumed run can be made longer.
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: schedule(step))
        return {"optimizer": self._optimizer, "lr_scheduler": {"scheduler": self._scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Freezes what must stay, and seeds random draws by the step's number, so that a resumed run draws the same."""
        torch.manual_seed(hash((self._seed, self.global_step)))
        # Before every step: Lightning calls no `train()` of this class, and sets the flags of single modules itself.
        for module in self._still:
            module.eval()
        self._qat.begin_step(self._schedule_step())
        self.guard.remember()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What moves the weights."""
        return self._optimizer

    def _schedule_step(self) -> int:
        """Returns the number of the step in a run that had this number of steps in every epoch."""
        return self.global_step if self._scheduler is None else self._scheduler.last_epoch

    def last_rate(self) -> float:
        """Returns the highest learning rate of the last step."""
        peak: float = max(group["initial_lr"] for group in self._optimizer.param_groups)
        return peak * self._schedule(max(0, self._schedule_step() - 1))

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Adds up the losses of the heads; an image without ground truth for a head adds nothing to its loss."""
        loss = self._losses.start(batch)
        self._batch = batch
        if batch_idx == 0:
            self._pulls = measure_pulls(self._losses.weighted, self.model.backbone)
        return loss

    def backward(self, loss: Tensor, *args: Any, **named: Any) -> None:
        """Computes the gradients of the step; of a divided batch, one part after another."""
        if self._combination is not None and len(self._losses.weighted) > 1:
            self._combination.backward(list(self._losses.weighted.values()))
            return
        super().backward(loss, *args, **named)
        rest = self._losses.rest()
        while (other := self._next_loss(rest)) is not None:
            super().backward(other if self._scaler is None else self._scaler.scale(other), *args, **named)

    def _next_loss(self, rest: Iterator[Tensor]) -> Tensor | None:
        """Computes the loss of the next part of a batch in the precision of training; None after the last."""
        with nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context():
            return next(rest, None)

    @property
    def _scaler(self) -> Any:
        """What scales gradients of 16 bits; None where nothing does."""
        return getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer is not None else None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skips the step where loss or gradients are not finite."""
        assert self._batch is not None
        terms = self._losses.terms
        # While the scale of 16-bit gradients is being found, some overflow; the scaler skips those steps itself.
        scaled = self._scaler is not None and self._scaler.get_scale() > 1
        loss, _ = terms["loss"]
        self._step_counts, norm = self.guard.check(loss)
        hold_back(optimizer, self._step_counts)
        values = torch.stack([norm, *(value for value, _ in terms.values())])
        step = Step(self.global_step, self._batch.image_ids, scaled)
        self._late.send(values, (step, {name: count for name, (_, count) in terms.items()}))

    def _receive(self, values: list[float], context: tuple[Step, dict[str, int]]) -> None:
        """Adds the losses of a step to the sums of the epoch if it counts."""
        (norm, *losses), (step, counts) = values, context
        terms = dict(zip(counts, losses, strict=True))
        self.last_loss = terms["loss"]
        if self.guard.count(terms["loss"], norm, step):
            for name, value in terms.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * counts[name]
                self._images[name] = self._images.get(name, 0) + counts[name]

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        """Updates the weights and their average together, so that no callback saves one without the other."""
        super().optimizer_step(*args, **named)
        if self.average is not None:
            self.average.update(self.model, self._step_counts)

    @property
    def pulls(self) -> dict[str, float]:
        """How the heads pull at the layers that they share; see :func:`~mbv2kit.training.pulls.measure_pulls`."""
        return {name: float(value) for name, value in self._pulls.items()}

    def mean_losses(self) -> dict[str, float]:
        """Returns means of the loss and of each term over their images of the epoch, without skipped steps."""
        self._late.flush()
        return {f"train/{name}": value / self._images[name] for name, value in self._sums.items()}

    def on_train_epoch_end(self) -> None:
        """Logs the means and resets them, and warns of heads that had no loss."""
        self.log_dict(self.mean_losses())
        for head in self._scored or self.model.class_names:
            if self._sums and len(self.model.heads) > 1 and not any(name.startswith(f"{head}/") for name in self._sums):
                _log.warning(
                    "the head for %s learned nothing in this epoch: no batch had two images with ground truth for it; "
                    "set a larger loader.batch_size",
                    head,
                )
        self._sums, self._images = {}, {}

    def on_validation_epoch_start(self) -> None:
        """Creates new evaluators."""
        self._evaluators = {
            head: create_evaluator(self.model.spec.tasks[head], names, self._evaluator)
            for head, names in self.model.class_names.items()
            if self._scored is None or head in self._scored
        }

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Compares the deployed model's predictions with the ground truth."""
        inputs = batch.images.permute(0, 2, 3, 1).cpu().numpy()
        predicted = as_trained(self.deployed).predict_inputs(inputs, batch.placements)
        for predictions, sample in zip(predicted, batch.samples, strict=True):
            for head, prediction in predictions.items():
                if head in self._evaluators and has_ground_truth(sample, head, self.model.spec.tasks[head]):
                    self._evaluators[head].update(prediction, sample)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the split."""
        scores = {head: evaluator.compute() for head, evaluator in self._evaluators.items()}
        for head, each in scores.items():
            for name, value in each.metrics.items():
                self.log(f"val/{metric_name(head, name)}", value)
        if len(self.model.heads) > 1:
            self.log(f"val/{MEAN}", combine(scores, self._references).metrics[MEAN])
            self.headline = (MEAN, *(metric_name(head, next(iter(each.metrics))) for head, each in scores.items()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the count of skipped steps, the sums of the epoch, and the origin of the first weights.

        Raises:
            UserError: The model holds a number that is not finite, with which no run could go on.
        """
        lost = [name for name, tensor in checkpoint["state_dict"].items() if not tensor.isfinite().all()]
        if lost:
            raise UserError(
                f"Training stopped after step {self.global_step}: the model is not finite ({first_few(lost)}); lower "
                f"optimizer.lr or set trainer.gradient_clip_norm=1. {KEPT}"
            )
        self._late.flush()
        checkpoint["skipped_steps"] = self.guard.skipped
        checkpoint["started_from"] = self.model.spec.origin.get("started_from")
        checkpoint["class_names"] = {head: list(names) for head, names in self.model.class_names.items()}
        checkpoint["epoch_sums"], checkpoint["epoch_counts"] = self._sums, self._images
        checkpoint["epoch_pictures"] = self._images.get("loss", 0)
        checkpoint["pulls"] = self.pulls

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores counts and sums, and sets the optimizer's options to those of the current config."""
        self.guard.skipped = checkpoint["skipped_steps"]
        # A resumed run does not open the weights again.
        if (started_from := checkpoint.get("started_from")) is not None:
            origin = {**self.model.spec.origin, "started_from": started_from}
            self.model.spec = replace(self.model.spec, origin=origin)
        self._sums = checkpoint["epoch_sums"]
        # Earlier versions counted the images once for all terms.
        once = dict.fromkeys(self._sums, checkpoint["epoch_pictures"])
        self._images = checkpoint.get("epoch_counts", once)
        self._pulls = {name: torch.tensor(value) for name, value in checkpoint.get("pulls", {}).items()}
        # A resumed run may have another learning rate or length; torch would use those of the checkpoint.
        (optimizer,), (scheduler,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        if between_epochs(checkpoint):
            # With another size of batches an epoch has another number of steps; the schedule goes by epochs.
            scheduler["last_epoch"] = (checkpoint["epoch"] + 1) * self._steps_per_epoch
        factor = self._schedule(scheduler["last_epoch"])
        for saved, group in zip(optimizer["param_groups"], self._optimizer.param_groups, strict=True):
            saved.update({key: value for key, value in group.items() if key != "params"})
            saved.update(initial_lr=group["lr"], lr=group["lr"] * factor)
        scheduler["base_lrs"] = [group["lr"] for group in self._optimizer.param_groups]
        self._lay_out(optimizer["state"])

    def _lay_out(self, state: dict[int, dict[str, Any]]) -> None:
        """Gives the tensors of an optimizer the memory layouts of their parameters, which fused optimizers rely on."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for index, tensors in state.items():
            for name, tensor in tensors.items():
                if isinstance(tensor, Tensor) and tensor.shape == parameters[index].shape:
                    tensors[name] = torch.empty_like(parameters[index], dtype=tensor.dtype).copy_(tensor)
