"""Makes batches from data sets, for training and for evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mbv2kit.data.augment import Augment
from mbv2kit.data.image_cache import ImageCache
from mbv2kit.data.joined import FIELDS, Joined, has_ground_truth
from mbv2kit.data.order import EpochSampler, in_step, share_out
from mbv2kit.data.training_set import TrainingSet
from mbv2kit.data.transport import naming
from mbv2kit.data.workers import WorkerLoader, check_workers
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Image, Sample, Task


@dataclass(slots=True)
class TrainingBatch:
    """The batch of one training step.

    Attributes:
        images: ``(B, 3, H, W)`` uint8.
        targets: The targets of each head that at least two images have ground truth for, as
            :meth:`mbv2kit.heads.Head.loss` expects them.
        image_ids: Names of the images, for messages.
        rows: For each head that not all images have ground truth for ``(R,)`` int64, the images that have; its targets
            are of these.
    """

    images: Tensor
    targets: dict[str, dict[str, Any]]
    image_ids: list[str]
    rows: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device, non_blocking: bool = False) -> "TrainingBatch":
        """Copies every tensor to ``device``."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin(self) -> "TrainingBatch":
        """Copies every tensor into memory that a GPU reads by itself."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        def within(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, dict):
                return {key: within(item) for key, item in value.items()}
            return [within(item) for item in value] if isinstance(value, list) else value

        return TrainingBatch(change(self.images), within(self.targets), self.image_ids, within(self.rows))

    def split(self, shares: Sequence[int]) -> "list[TrainingBatch]":
        """Returns the parts of the batch that are of one data set each.

        Args:
            shares: Images of each data set, in the order of the batch.
        """
        starts = np.cumsum((0, *shares)).tolist()
        return [self._between(*ends) for ends in pairwise(starts)]

    def parts(self, count: int) -> "list[TrainingBatch]":
        """Returns ``count`` parts of the batch of as many images each.

        A head has no targets in a part where a single image has ground truth for it.
        """
        if count == 1:
            return [self]
        size = len(self.images) // count
        return [self._between(size * place, size * (place + 1)) for place in range(count)]

    def _between(self, start: int, stop: int) -> "TrainingBatch":
        part = TrainingBatch(self.images[start:stop], {}, self.image_ids[start:stop])
        for head, targets in self.targets.items():
            rows = self.rows[head] if head in self.rows else torch.arange(len(self.images))
            places = ((rows >= start) & (rows < stop)).nonzero()[:, 0]
            if len(places) > 1:
                part.targets[head] = {name: _chosen(value, places) for name, value in targets.items()}
                if len(places) < stop - start:
                    part.rows[head] = (rows[places] - start).to(self.images.device)
        return part


@dataclass(slots=True)
class EvaluationBatch:
    """The batch of one evaluation step.

    Attributes:
        images: ``(B, 3, H, W)`` uint8, preprocessed for the model.
        placements: Where each image lies in its input.
        samples: The original images with their ground truth.
    """

    images: Tensor
    placements: list[Placement]
    samples: list[Sample]

    def to(self, device: torch.device, non_blocking: bool = False) -> "EvaluationBatch":
        """Copies the images to ``device``."""
        return EvaluationBatch(self.images.to(device, non_blocking=non_blocking), self.placements, self.samples)

    def pin(self) -> "EvaluationBatch":
        """Copies the images into memory that a GPU reads by itself."""
        return EvaluationBatch(self.images.pin_memory(), self.placements, self.samples)


def _chosen(value: Any, places: Tensor) -> Any:
    """Returns the targets of some images; the size of the input is that of all."""
    if isinstance(value, Tensor):
        return value[places.to(value.device)]
    return [value[place] for place in places.tolist()] if isinstance(value, list) else value


class EvaluationSet(Dataset[tuple[Image, Placement, Sample]]):
    """Original samples, each with the input that preprocessing makes from it."""

    def __init__(self, source: Joined, preprocess: Preprocess) -> None:
        self._source = source
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Image, Placement, Sample]:
        with naming(f"Reading image {index + 1} of {len(self)}"):
            sample = self._source[index]
        with naming(f"{sample.image_id}: preprocessing"):
            image, placement = self._preprocess(sample.image)
        return image, placement, sample


class DataModule(lightning.LightningDataModule):
    """The loaders of one run.

    Args:
        train: The training split.
        val: The validation split.
        augment: Makes training samples of one size.
        preprocess: Preprocessing of the model.
        batch_size: Number of images per pass, at least 2, because batch norm needs more than one; shared out among the
            data sets.
        workers: Number of processes that read and augment; 0 does it in the training process.
        seed: Seed of the order and of augmentation.
        ratio: Weight of each data set in a batch; None for equal weights.
        passes: Passes of a step, whose batch holds as many times the images.
        caches: For each data set of ``train`` what keeps its decoded images, if anything does; None for none.

    Raises:
        UserError: A number is out of range, or there are too few images.
    """

    def __init__(
        self,
        train: Joined,
        val: Joined,
        *,
        augment: Augment,
        preprocess: Preprocess,
        batch_size: int,
        workers: int,
        seed: int,
        ratio: Sequence[float] | None = None,
        passes: int = 1,
        caches: Sequence[ImageCache | None] | None = None,
    ) -> None:
        super().__init__()
        check_workers(workers)
        images, head = min((len(source), head) for head, source in train.sources.items())
        if batch_size < 2 or images < 2:
            of_head = f" for {head}" if len(train.sources) > 1 else ""
            raise UserError(
                f"Batch normalization cannot train on one image at a time: loader.batch_size is {batch_size} and the "
                f"training split has {images} images{of_head}; both must be at least 2."
            )
        if not len(val):
            raise UserError("The validation split holds no image; name another with dataset.val_split.")
        shares = share_out(batch_size, ratio or [1] * len(train.counts))
        self._blocks = train.blocks
        self._sampler = EpochSampler(train.counts, shares, seed, passes, self._blocks)
        self.shares = self._sampler.shares
        self.steps_per_epoch = len(self._sampler)
        if not self.steps_per_epoch:
            raise UserError(
                f"trainer.accumulate={passes} batches of loader.batch_size={batch_size} are more than the "
                f"{len(train)} images of the training split; lower one of them."
            )
        self.train = train
        self.val = val
        self._training_set = TrainingSet(train, augment, seed, caches)
        self._preprocess = preprocess
        self._batch_size = batch_size
        self._passes = passes
        self._seed = seed
        self.workers = workers

    def start_epoch(self, epoch: int) -> None:
        """Sets the epoch of the training loader, whose batches a resumed run may already have started."""
        if epoch != self._sampler.epoch:
            self._sampler.epoch, self._sampler.start = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the run for the checkpoint: the epoch and the number of its finished batches."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        finished = done >= self.trainer.num_training_batches
        position = {"epoch": epoch + 1, "start": 0} if finished else {"epoch": epoch, "start": done}
        return position | self.order | {"batches": self.trainer.num_training_batches}

    @property
    def order(self) -> dict[str, Any]:
        """What decides the batches of an epoch."""
        whole = self._passes * self._batch_size
        order: dict[str, Any] = {"images": len(self.train), "batch_size": whole, "seed": self._seed}
        windows = [0 if blocks is None else blocks.window for blocks in self._blocks]
        order |= {"shuffle_window": windows} if any(windows) else {}
        return order if len(self.shares) == 1 else order | {"shares": list(self.shares)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the position in a checkpoint."""
        self._sampler.epoch, self._sampler.start = state_dict["epoch"], state_dict["start"]

    def transfer_batch_to_device(
        self, batch: TrainingBatch | EvaluationBatch, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch | EvaluationBatch:
        """Copies a batch to the device; a GPU fetches it while the host goes on."""
        return batch.pin().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Returns the loader of augmented batches, which come in a new order each epoch."""
        return WorkerLoader(self._training_set, self.workers, batch_sampler=self._sampler, collate_fn=collate_training)

    def first_batches(self, images: int) -> Iterator[TrainingBatch]:
        """Yields batches of the first epoch, made in this process, until they hold ``images`` images."""
        sampler = EpochSampler(self.train.counts, self.shares, self._seed, blocks=self._blocks)
        for batch in islice(sampler, -(-images // self._batch_size)):
            yield collate_training([self._training_set[key] for key in batch])

    def val_dataloader(self) -> "DataLoader[tuple[Image, Placement, Sample]]":
        """Returns the loader of the validation split, which yields every image once, several data sets in step."""
        order = in_step(self.val.counts)
        return evaluation_loader(self.val, self._preprocess, self._batch_size, self.workers, order)


def evaluation_loader(
    source: Joined, preprocess: Preprocess, batch_size: int, workers: int, order: Sequence[int] | None = None
) -> "DataLoader[tuple[Image, Placement, Sample]]":
    """Returns a loader that yields every image once, in an :class:`EvaluationBatch`.

    Args:
        source: The images.
        preprocess: Preprocessing of the model.
        batch_size: Number of images at a time.
        workers: Number of processes that read.
        order: The numbers of the images in their order; None for that of the source.

    Raises:
        UserError: ``batch_size`` is below 1 or ``workers`` below 0.
    """
    if batch_size < 1:
        raise UserError(f"loader.batch_size must be at least 1, got {batch_size}.")
    check_workers(workers)
    return WorkerLoader(
        EvaluationSet(source, preprocess), workers, batch_size=batch_size, sampler=order, collate_fn=collate_evaluation
    )


def collate_training(samples: Sequence[Sample]) -> TrainingBatch:
    """Stacks augmented samples of one size, with all targets that they have."""
    images = images_to_tensor([sample.image for sample in samples])
    size = (images.shape[2], images.shape[3])
    batch = TrainingBatch(images, {}, [sample.image_id for sample in samples])
    for task in FIELDS:
        for head in dict.fromkeys(sample.heads.get(task, task) for sample in samples):
            rows = [row for row, sample in enumerate(samples) if has_ground_truth(sample, head, task)]
            # A head cannot normalize over a single image.
            if len(rows) > 1:
                batch.targets[head] = {"size": size, **_targets(task, [samples[row] for row in rows])}
            if 1 < len(rows) < len(samples):
                batch.rows[head] = torch.tensor(rows)
    return batch


def _targets(task: Task, samples: Sequence[Sample]) -> dict[str, Any]:
    if task == "classification":
        return {"label": torch.tensor([sample.label for sample in samples])}
    if task == "segmentation":
        return {"mask": torch.from_numpy(np.stack([np.asarray(sample.mask) for sample in samples]))}
    return {key: [torch.from_numpy(getattr(sample, key)) for sample in samples] for key in ("boxes", "labels", "crowd")}


def collate_evaluation(items: Sequence[tuple[Image, Placement, Sample]]) -> EvaluationBatch:
    """Stacks inputs of one size and keeps the rest in lists."""
    images, placements, samples = zip(*items, strict=True)
    return EvaluationBatch(images_to_tensor(images), list(placements), list(samples))
