"""The losses of a step, whose batch passes through the network as a whole or in parts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbv2kit.data.datamodule import TrainingBatch
from mbv2kit.heads.registry import Raw
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import sum_of, tensors_in
from mbv2kit.training.weighting import FixedWeights, UncertaintyWeights

# The terms of a step's loss, with the number of images that each is the mean of.
Terms = dict[str, tuple[Tensor, int]]


@dataclass(slots=True)
class _Pass:
    """What a pass of some images gives for each head that has ground truth: raw tensors, terms of the loss, images."""

    raw: dict[str, Raw] = field(default_factory=dict)
    terms: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)


class StepLosses:
    """Computes the losses of a step and, where its batch is divided, weighs those of the parts.

    The weights make the gradient that of the whole batch, but for batch statistics: the loss of a head is a mean over
    its labeled images, matched anchors or labeled pixels, of which the parts hold different numbers.

    Args:
        model: The model.
        weights: Adds up the losses of the heads.
        parts: Number of parts of a batch.
        apart: Images of each data set in a part, if the data sets pass through the network one by one; None if all
            images of a part do together.

    Attributes:
        terms: The terms of the step's loss so far.
        weighted: The weighted loss of each head in the first part.
    """

    def __init__(
        self,
        model: VisionModel,
        weights: FixedWeights | UncertaintyWeights,
        parts: int = 1,
        apart: Sequence[int] | None = None,
    ) -> None:
        self._model = model
        self._weights = weights
        self._parts = parts
        self._apart = apart
        self._rest: list[tuple[TrainingBatch, Mapping[str, Tensor | float]]] = []
        self.terms: Terms = {}
        self.weighted: dict[str, Tensor] = {}

    def start(self, batch: TrainingBatch) -> Tensor:
        """Returns the loss of the first part of a batch, or of all of it if it is not divided."""
        first, *others = batch.parts(self._parts)
        self.terms = {"loss": (torch.zeros((), device=batch.images.device), len(batch.images))}
        passed = self._pass(first)
        shares = self._shares([first, *others], passed.raw) if others else [dict.fromkeys(passed.raw, 1.0)]
        self._rest = list(zip(others, shares[1:], strict=True))
        self.weighted = self._weigh(passed, shares[0])
        # A batch may have too little ground truth for any head.
        return self._total(self.weighted) if self.weighted else 0 * self._sum_of_outputs(first)

    def rest(self) -> Iterator[Tensor]:
        """Yields the losses of the other parts, each computed as it is asked for."""
        for part, shares in self._rest:
            if part.targets:
                yield self._total(self._weigh(self._pass(part), shares))
        self._rest = []

    def _pass(self, part: TrainingBatch) -> _Pass:
        passed = _Pass()
        for each in [part] if self._apart is None else part.split(self._apart):
            raw = self._model(each.images, {head: each.rows.get(head) for head in each.targets})
            for head, targets in each.targets.items():
                passed.raw[head] = raw[head]
                passed.terms[head] = self._model.heads[head].loss(raw[head], targets)
                passed.images[head] = len(each.rows.get(head, each.images))
        return passed

    def _weigh(self, passed: _Pass, shares: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
        """Returns the weighted loss of each head in a part, and adds its terms to those of the step."""
        weighted: dict[str, Tensor] = {}
        for head, terms in passed.terms.items():
            weighted[head] = self._weights({head: sum_of(terms.values())}, shares[head])
            for name, value in terms.items():
                # Heads may call their terms alike.
                whole = f"{head}/{name}" if len(self._model.heads) > 1 else name
                before, images = self.terms.get(whole, (0, 0))
                self.terms[whole] = before + shares[head] * value.detach(), images + passed.images[head]
        return weighted

    def _total(self, weighted: Mapping[str, Tensor]) -> Tensor:
        """Returns the sum of losses, which is added to that of the step."""
        total = sum_of(weighted.values())
        before, images = self.terms["loss"]
        self.terms["loss"] = before + total.detach(), images
        return total

    @torch.no_grad()
    def _shares(self, parts: Sequence[TrainingBatch], raw: Mapping[str, Raw]) -> list[dict[str, Tensor]]:
        """Returns for each part the share of the loss of a head that is its own.

        Args:
            parts: The parts of a batch.
            raw: Raw tensors of the heads in the first part.
        """
        counts: list[dict[str, Tensor]] = [{} for _ in parts]
        for name in dict.fromkeys(name for part in parts for name in part.targets):
            head = self._model.heads[name]
            known = raw[name] if name in raw else self._raw_of(name, parts[0])
            for count, part in zip(counts, parts, strict=True):
                if name in part.targets:
                    count[name] = head.count(known, part.targets[name]).float()
            whole = sum_of(count[name] for count in counts if name in count).clamp(min=head.least_count)
            for count in counts:
                if name in count:
                    count[name] = count[name].clamp(min=head.least_count) / whole
        return counts

    def _raw_of(self, name: str, part: TrainingBatch) -> Raw:
        """Returns raw tensors of a head that has no ground truth in a part, and changes no statistics."""
        training = [module for module in self._model.modules() if module.training]
        raw: dict[str, Raw] = self._model.eval()(part.images[:1], {name: None})
        for module in training:
            module.training = True
        return raw[name]

    def _sum_of_outputs(self, part: TrainingBatch) -> Tensor:
        return sum_of(tensor.sum() for tensor in tensors_in(self._model(part.images)))
