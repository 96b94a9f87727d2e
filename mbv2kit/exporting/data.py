"""The images that an export needs: to compare outputs, to calibrate and to measure accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mbv2kit.data.joined import Joined, open_joined
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.data.sources import create_source
from mbv2kit.errors import UserError
from mbv2kit.evaluation.dataset import listed
from mbv2kit.imaging.preprocess import Preprocess, preprocess_file
from mbv2kit.inference.image_paths import expand
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Image


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
        datasets: For each head whose data set is known the ``dataset`` of a config.
    """

    spec: ModelSpec
    preprocess: Preprocess
    datasets: Mapping[str, Mapping[str, Any]]

    def calibration(self, paths: str | Sequence[str] | None, count: int) -> Images:
        """Returns the images from which int8 takes its ranges: those of ``paths``, or else of the training split.

        Raises:
            UserError: There are no images.
        """
        if paths is not None:
            return self._from_files("calibration", paths, count)
        if not self.datasets:
            raise UserError(
                "precision=int8 takes ranges from real images, and the data set of the model is unknown; name a few "
                "hundred images with calibration=DIR, or a data set: dataset=NAME dataset.root=DIR."
            )
        return self._from_split("train_split", count)

    def for_check(self, paths: str | Sequence[str] | None, count: int) -> Images:
        """Returns the images of the check: those of ``paths``, or else of the validation split, or drawn ones."""
        if paths is not None:
            return self._from_files("pictures", paths, count)
        if self.datasets:
            return self._from_split("val_split", count)
        task = next(iter(self.spec.tasks.values()))
        images = Joined({task: create_source("shapes", task=task, split="val", val_count=count)})
        return Images(self._inputs(images, range(count)), "drawn on the fly; name real ones with pictures=DIR")

    def ground_truth(self) -> Joined | None:
        """Opens the validation splits with the model's classes; None if no data set is known."""
        if not self.datasets:
            return None
        return open_joined(self.datasets, self.spec.tasks, "val_split").aligned(self.spec.class_names, leave_out=True)

    def _from_files(self, key: str, paths: str | Sequence[str], count: int) -> Images:
        names = [paths] if isinstance(paths, str) else list(paths)
        try:
            files = expand(names)
            inputs = [preprocess_file(files[i], self.preprocess)[0] for i in evenly_spaced(len(files), count)]
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        return Images(inputs, ", ".join(names))

    def _from_split(self, key: Literal["train_split", "val_split"], count: int) -> Images:
        images = open_joined(self.datasets, self.spec.tasks, key)
        origin = listed(f"{dataset['name']}, {dataset[key]}" for dataset in self.datasets.values())
        return Images(self._inputs(images, evenly_spaced(len(images), count)), origin)

    def _inputs(self, images: Joined, indices: Sequence[int]) -> list[Image]:
        return [self.preprocess(images[i].image)[0] for i in indices]
