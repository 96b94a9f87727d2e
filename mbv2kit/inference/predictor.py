"""Predictor: a network that is ready to run, from images to predictions in the pixels of each image."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.imaging.postprocess import NmsOptions, Outputs, check_outputs, finite, outputs_of, postprocess
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference.chain import BoxClassifier, Predictions
from mbv2kit.inference.inputs import Ready, read_input
from mbv2kit.inference.pipeline import Predict, count_workers
from mbv2kit.inference.result_list import Results
from mbv2kit.inference.results import MIN_SCORE, Result, check_score
from mbv2kit.inference.sources import Source, to_sources
from mbv2kit.inference.stages import Stages
from mbv2kit.models.session import Session
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Input, Prediction

_NOT_FINITE = (
    "the network's outputs are not numbers (NaN or infinite); its weights or its exported file are damaged, or "
    "training diverged."
)


class Predictor:
    """Preprocessing, a session and postprocessing: all that a model does with images, in any runtime.

    Args:
        spec: What the model is.
        open_session: Opens the network for a number of threads; called once here, and once for each copy.
        runtime: What runs the network, for people.
        threads: Threads of the session, which copies divide among them when they run together; 1 where they cannot.
        size: Height and width of the network's input; None for that of the spec.
        batch: Images at a time that the network takes; None for any number.
        nms_options: NMS options of each detector whose network does no NMS.

    Attributes:
        spec: As given.
        preprocess: How an image becomes the network's input.
        batch: As given.
        runtime: As given.
    """

    def __init__(
        self,
        spec: ModelSpec,
        open_session: Callable[[int], Session],
        *,
        runtime: str = "torch",
        threads: int = 1,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        nms_options: Mapping[str, NmsOptions] = MappingProxyType({}),
    ) -> None:
        self.spec = spec
        self.runtime = runtime
        self.preprocess: Preprocess = spec.input if size is None else replace(spec.input, size=size)
        self.batch = batch
        self._nms_options = nms_options
        self._open_session = open_session
        self._threads = threads
        self._session = open_session(threads)
        self._second: BoxClassifier | None = None
        # The copies that no list of results uses at the moment, by their number of threads.
        self._idle: defaultdict[int, list[Predictor]] = defaultdict(list)

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        """For each head the names of its classes, by class id."""
        return self.spec.class_names

    def then(self, classifier: "Predictor", *, margin: float = 0.0) -> "Predictor":
        """Returns a predictor that has a second model classify what this one detects.

        Each box whose score is at least ``min_score`` is cut out of the image, which is decoded once and at full size,
        and classified. The results have the best class of each box as ``then_labels``, ``then_scores`` and
        ``then_class_ids``.

        Args:
            classifier: A model with a classifier.
            margin: What is added around a box on each side, as a share of its width and height; it ends at the border
                of the image.

        Raises:
            UserError: This model does not detect or has a second one already, the second one does not classify, or the
                margin is below 0.

        Examples:
            >>> predictor = mbv2kit.load("outputs/first").then(mbv2kit.load("outputs/kinds"))
            >>> result = predictor("photos/cat.jpg")
            >>> len(result.then_labels) == len(result.boxes)
            True
        """
        if not isinstance(classifier, Predictor):
            raise UserError(
                f"A second model is a predictor such as mbv2kit.load(...) returns, got {type(classifier).__name__}."
            )
        if "detection" not in self.spec.tasks.values():
            raise UserError(
                f"A second model classifies the boxes of a detector, but the first one does "
                f"{' and '.join(self.class_names)}; load one that detects."
            )
        if self._second is not None:
            raise UserError("This predictor has a second model already; load the detector anew for another one.")
        # Both have one session, which takes most of the memory.
        chained = copy.copy(self)
        chained._second = BoxClassifier(classifier, margin)
        chained._idle = defaultdict(list)
        return chained

    # A string may also be a folder or a pattern; in a list it always gives Results.
    @overload
    def __call__(
        self, images: str | PathLike[str], *, bgr: bool = ..., min_score: float = ..., batch_size: int | None = ...
    ) -> Result | Any: ...

    @overload
    def __call__(
        self, images: Sequence[Any], *, bgr: bool = ..., min_score: float = ..., batch_size: int | None = ...
    ) -> Results: ...

    @overload
    def __call__(
        self, images: Any, *, bgr: bool = ..., min_score: float = ..., batch_size: int | None = ...
    ) -> Result: ...

    def __call__(
        self, images: Any, *, bgr: bool = False, min_score: float = MIN_SCORE, batch_size: int | None = None
    ) -> Result | Results:
        """Predicts for one image or several.

        Args:
            images: A path, or an image as :func:`mbv2kit.imaging.intake.to_rgb` takes it: a numpy array, a torch tensor
                or a Pillow image. Or several: a folder, a pattern such as ``"photos/*.jpg"``, or a list of all these.
            bgr: Whether arrays hold blue, green and red in this order, as OpenCV's frames do.
            min_score: Boxes of a lower score are left out, 0..1.
            batch_size: How many of several images to process at a time; None for as many as the network takes, or one
                where it takes any number.

        Returns:
            A :class:`Result` for one image, :class:`Results` for several: a list that is computed as it is read, where
            a file that cannot be read has a result with an ``error``.

        Raises:
            UserError: The image cannot be read, an array is not an image, or an argument is out of range.
        """
        check_score("min_score", min_score)
        at_a_time, sources = self.batch_size(batch_size), to_sources(images, bgr=bgr)
        predict = partial(self.predict, min_score=min_score)
        if isinstance(sources, list):
            return Results(sources, predict, partial(self._workers, min_score), at_a_time)
        (result,) = predict([sources])
        if result.error is not None:
            raise UnreadableImageError(result.error)
        return result

    def batch_size(self, wanted: int | None) -> int:
        """Returns how many images to process at a time.

        Args:
            wanted: The number; None for as many as the network takes, or one where it takes any number.

        Raises:
            UserError: It is not a whole number from 1 up.
        """
        # A configuration may hold anything.
        if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
            raise UserError(
                f"batch_size must be a whole number from 1 up, or null for what suits the model, got {wanted!r}."
            )
        return wanted or self.batch or 1

    def predict(
        self,
        sources: Sequence[Source],
        *,
        min_score: float = MIN_SCORE,
        stages: Stages | None = None,
        keep_pixels: bool = False,
    ) -> list[Result]:
        """Predicts for files and images, all in one batch.

        Args:
            sources: Paths, the content of image files, and ``(H, W, 3)`` uint8 RGB images of any size.
            min_score: Boxes of a lower score are left out of the results, 0..1.
            stages: Adds up the time spent on reading, the network and postprocessing.
            keep_pixels: Whether results keep the pixels of a file that was decoded at full size, so that drawing them
                does not read it anew.

        Returns:
            A result for each source; that of a file that cannot be read has an ``error``.

        Raises:
            UserError: The network cannot run, or does not return what its model promises.
        """
        stages = stages or Stages()
        with stages.timing("reading"):
            read = [read_input(source, self.preprocess, whole=self._second is not None) for source in sources]
        ready = [each for each in read if not isinstance(each, UserError)]
        predicted = self._predict(ready, stages)
        if self._second is not None:
            whole = [each.pixels for each in ready if each.pixels is not None]
            predicted = self._second.add_classes(whole, predicted, min_score, stages)
        predictions = iter(predicted)
        then_class_names = () if self._second is None else self._second.class_names
        results = []
        for source, each in zip(sources, read, strict=True):
            result = partial(
                Result,
                path=source if isinstance(source, Path) else None,
                class_names=self.class_names,
                min_score=min_score,
                then_class_names=then_class_names,
            )
            if isinstance(each, UserError):
                results.append(result(size=(0, 0), predictions={}, error=str(each)))
                continue
            pixels = each.pixels if keep_pixels or isinstance(source, np.ndarray) else None
            result = partial(result, size=each.placement.image, pixels=pixels)
            prediction = next(predictions)
            if isinstance(prediction, str):
                name = "" if isinstance(source, np.ndarray) else f"{source}: "
                results.append(result(predictions={}, error=f"{name}{prediction}"))
            else:
                results.append(result(predictions=prediction))
        return results

    def predict_inputs(self, inputs: Input, placements: Sequence[Placement]) -> list[dict[str, Prediction]]:
        """Predicts for inputs that :attr:`preprocess` made; see :meth:`outputs` and :meth:`postprocess`.

        Raises:
            UserError: The network cannot run, does not return what its model promises, or returns no numbers.
        """
        outputs = self.outputs(inputs)
        if not finite(outputs, len(inputs)).all():
            raise UserError(_NOT_FINITE)
        return self.postprocess(outputs, placements)

    def outputs(self, images: Input) -> Outputs:
        """Computes the network's outputs for any number of inputs, ``(B, H, W, 3)`` RGB."""
        if self.batch is None or len(images) == self.batch:
            return self._session(images)
        parts = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            missing = self.batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append({name: array[: len(part)] for name, array in self._session(filled).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def postprocess(self, outputs: Outputs, placements: Sequence[Placement]) -> list[dict[str, Prediction]]:
        """Turns the outputs of a batch into predictions.

        Args:
            outputs: What :meth:`outputs` returned.
            placements: Where each image lies in its input.

        Returns:
            For each image the prediction of each head, in the pixels of the image.

        Raises:
            UserError: The outputs are not those that the model promises.
        """
        size, tasks = self.preprocess.size, self.spec.tasks
        check_outputs(outputs, len(placements), size, self.class_names, tasks)
        decoded = {
            head: postprocess(task, outputs_of(head, task, outputs), size, self._nms_options.get(head))
            for head, task in tasks.items()
        }
        return [
            {head: placement.restore(predictions[i]) for head, predictions in decoded.items()}
            for i, placement in enumerate(placements)
        ]

    def copy(self, threads: int | None = None) -> "Predictor":
        """Opens the same network once more, to run next to this one in another thread.

        Args:
            threads: Threads of the copy's session; None for as many as here.
        """
        copied = Predictor(
            self.spec,
            self._open_session,
            runtime=self.runtime,
            threads=threads or self._threads,
            size=self.preprocess.size,
            batch=self.batch,
            nms_options=self._nms_options,
        )
        if self._second is not None:
            copied._second = replace(self._second, predictor=self._second.predictor.copy(threads))
        return copied

    def __repr__(self) -> str:
        height, width = self.preprocess.size
        tasks = ", ".join(f"{head} of {len(names)} classes" for head, names in self.class_names.items())
        heads = ", ".join(str(head["name"]) for head in self.spec.heads.values())
        then = "" if self._second is None else f", then {self._second.predictor!r}"
        return f"Predictor({tasks}, {self.spec.backbone['name']} + {heads}, {width} x {height}, {self.runtime}{then})"

    def _predict(self, read: Sequence[Ready], stages: Stages) -> list[Predictions | str]:
        """Returns the predictions of each image, or why it has none."""
        if not read:
            return []
        with stages.timing("network"):
            outputs = self.outputs(np.stack([each.inputs for each in read]))
        with stages.timing("postprocessing"):
            good = finite(outputs, len(read))
            predictions = self.postprocess(outputs, [each.placement for each in read])
            return [each if fine else _NOT_FINITE for each, fine in zip(predictions, good.tolist(), strict=True)]

    @contextmanager
    def _workers(self, min_score: float, images: int) -> Iterator[list[Predict]]:
        """Gives what predicts for several batches at a time: copies, among which the threads are divided."""
        count = count_workers(self._threads, images)
        idle, copies = self._idle[self._threads // count], list[Predictor]()
        try:
            for _ in range(count if count > 1 else 0):
                copies.append(idle.pop() if idle else self.copy(self._threads // count))
            yield [partial(predictor.predict, min_score=min_score) for predictor in copies or [self]]
        finally:
            idle += copies
