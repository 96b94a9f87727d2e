"""The images that an export needs: to compare outputs, to calibrate and to measure accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbv2kit.data.align import align_classes
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.data.sources import Source, create_source, open_source
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess, preprocess_file
from mbv2kit.inference.image_paths import expand
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Image, Task


@dataclass(frozen=True, slots=True)
class Images:
    """Inputs of a network, ``(H, W, 3)`` uint8 each, and a description of where the images come from."""

    inputs: list[Image]
    origin: str


@dataclass(frozen=True, slots=True)
class ExportData:
    """Images for one model.

    Attributes:
        spec: Spec of the model.
        preprocess: How an image becomes the exported network's input.
        dataset: The ``dataset`` of a config; None if it is unknown.
    """

    spec: ModelSpec
    preprocess: Preprocess
    dataset: Mapping[str, Any] | None

    @property
    def task(self) -> Task:
        """The task on which accuracy is measured: the first of the model."""
        return next(iter(self.spec.heads))

    def calibration(self, paths: str | Sequence[str] | None, count: int) -> Images:
        """Returns the images from which int8 takes its ranges: those of ``paths``, or else of the training split.

        Raises:
            UserError: There are no images.
        """
        if paths is not None:
            return self._from_files("calibration", paths, count)
        if self.dataset is None:
            raise UserError(
                "precision=int8 takes ranges from real images, and the data set of the model is unknown; name a few "
                "hundred images with calibration=DIR, or a data set: dataset=NAME dataset.root=DIR."
            )
        return self._from_split(self.dataset, self.dataset["train_split"], count)

    def for_check(self, paths: str | Sequence[str] | None, count: int) -> Images:
        """Returns the images of the check: those of ``paths``, or else of the validation split, or drawn ones."""
        if paths is not None:
            return self._from_files("pictures", paths, count)
        if self.dataset is not None:
            return self._from_split(self.dataset, self.dataset["val_split"], count)
        source = create_source("shapes", task=self.task, split="val", val_count=count)
        return Images(self._inputs(source, range(count)), "drawn on the fly; name real ones with pictures=DIR")

    def ground_truth(self) -> Source | None:
        """Opens the validation split with the model's classes; None if the data set is unknown."""
        if self.dataset is None:
            return None
        source = open_source(self.dataset, self.task, self.dataset["val_split"])
        return align_classes(source, self.spec.class_names[self.task], leave_out=self.task == "detection")

    def _from_files(self, key: str, paths: str | Sequence[str], count: int) -> Images:
        names = [paths] if isinstance(paths, str) else list(paths)
        try:
            files = expand(names)
            inputs = [preprocess_file(files[i], self.preprocess)[0] for i in evenly_spaced(len(files), count)]
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        return Images(inputs, ", ".join(names))

    def _from_split(self, dataset: Mapping[str, Any], split: str, count: int) -> Images:
        source = open_source(dataset, self.task, split)
        return Images(self._inputs(source, evenly_spaced(len(source), count)), f"{dataset['name']}, {split}")

    def _inputs(self, source: Source, indices: Sequence[int]) -> list[Image]:
        return [self.preprocess(source[i].image)[0] for i in indices]
