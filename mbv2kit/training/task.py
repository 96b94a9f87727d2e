"""The LightningModule for any head or set of heads."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from mbv2kit.data.datamodule import EvaluationBatch, TrainingBatch
from mbv2kit.evaluation import Evaluator, create_evaluator
from mbv2kit.heads import Head
from mbv2kit.model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.training.ema import WeightAverage
from mbv2kit.training.guard import StepGuard
from mbv2kit.training.optim import create_optimizer
from mbv2kit.training.schedule import Schedule


class VisionTask(lightning.LightningModule):
    """Trains a VisionModel on the targets that the batches hold, and scores it on the validation split.

    Args:
        model: Backbone and heads; the loss is the sum of all terms of all heads.
        optimizer: Config of the optimiser.
        schedule: Factor on the learning rate at each step.
        ema_decay: Of the moving average of the weights, which is then what is scored and saved; None: no average.
        seed: Of what is drawn in the steps, such as dropout.
    """

    def __init__(
        self,
        model: VisionModel,
        *,
        optimizer: Mapping[str, Any],
        schedule: Schedule,
        ema_decay: float | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.average = WeightAverage(model, ema_decay) if ema_decay is not None else None
        self.guard = StepGuard(model)
        self._optimizer_config = optimizer
        self._schedule = schedule
        self._seed = seed
        self._evaluators: dict[Task, Evaluator] = {}
        self._step: tuple[Tensor, list[str]] | None = None
        self._step_counts = True

    @property
    def deployed(self) -> VisionModel:
        """The model to score and to save: the moving average where there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.model, VisionModel)
        return self.average.model

    def configure_optimizers(self) -> dict[str, Any]:
        """Builds the optimiser, and a scheduler that looks the factor up at each step."""
        optimizer = create_optimizer(self.model, self._optimizer_config)
        schedule = self._schedule
        # A lambda keeps the schedule itself out of the checkpoint, so that a longer run can change its length.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Makes the step's draws depend on its number alone, so that a resumed run repeats none."""
        torch.manual_seed(hash((self._seed, self.global_step)))
        self.guard.remember()

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Adds up the terms of the loss of every head."""
        raw = self.model(batch.images)
        terms: dict[str, Tensor] = {}
        for head in self.model.heads.values():
            assert isinstance(head, Head)
            terms.update(head.loss(raw[head.task], batch.targets))
        loss = torch.stack(list(terms.values())).sum()
        self._step = loss, batch.image_ids
        logged = {f"train/{name}": value.detach() for name, value in terms.items()} | {"train/loss": loss.detach()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(batch.images))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch.images))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the step back where it is not finite."""
        assert self._step is not None
        loss, image_ids = self._step
        self._step_counts = self.guard.check(loss, self.global_step, image_ids)

    def on_train_batch_end(self, outputs: Any, batch: TrainingBatch, batch_idx: int) -> None:
        """Moves the average of the weights."""
        if self.average is not None and self._step_counts:
            self.average.update(self.model)

    def on_validation_epoch_start(self) -> None:
        """Starts the count afresh."""
        self._evaluators = {task: create_evaluator(task, names) for task, names in self.model.class_names.items()}

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Compares what the deployed model sees in each picture with the truth."""
        for predictions, sample in zip(
            self.deployed.predict_batch(batch.images, batch.placements), batch.samples, strict=True
        ):
            for task, prediction in predictions.items():
                self._evaluators[task].update(prediction, sample)

    def on_validation_epoch_end(self) -> None:
        """Logs the figures of the split."""
        for evaluator in self._evaluators.values():
            for name, value in evaluator.compute().metrics.items():
                self.log(f"val/{name}", value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the count of skipped steps."""
        checkpoint["skipped_steps"] = self.guard.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on counting skipped steps."""
        self.guard.skipped = checkpoint["skipped_steps"]
