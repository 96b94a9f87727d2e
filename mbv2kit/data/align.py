"""The labels of a data set in the numbering of a model that was trained on another list of the same classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError
from mbv2kit.structures import IGNORE, Sample


class AlignedSource(Source):
    """A source whose labels follow ``class_names``, which hold all of its own classes.

    Args:
        source: Where the samples come from.
        class_names: The model's classes, in the model's order.

    Raises:
        UserError: The source has classes that the model does not know.
    """

    def __init__(self, source: Source, class_names: Sequence[str]) -> None:
        strangers = [name for name in source.class_names if name not in class_names]
        if strangers:
            raise UserError(
                f"The data set has classes that the model does not know: {', '.join(strangers[:5])}"
                f"{', ...' if len(strangers) > 5 else ''}. The model knows {', '.join(list(class_names)[:5])}"
                f"{', ...' if len(class_names) > 5 else ''}; evaluate on its own classes, or train on this data set."
            )
        self.class_names = tuple(class_names)
        self.dropped_boxes = source.dropped_boxes
        self._source = source
        self._ids = np.array([list(class_names).index(name) for name in source.class_names], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        if sample.label is not None:
            sample = replace(sample, label=int(self._ids[sample.label]))
        if sample.labels is not None:
            sample = replace(sample, labels=self._ids[sample.labels])
        if sample.mask is not None:
            table = np.full(256, IGNORE, dtype=np.uint8)
            table[: len(self._ids)] = self._ids
            sample = replace(sample, mask=table[sample.mask])
        return sample


def align_classes(source: Source, class_names: Sequence[str]) -> Source:
    """Returns the source itself where its classes are the model's, and an :class:`AlignedSource` where they differ."""
    if tuple(class_names) == source.class_names:
        return source
    return AlignedSource(source, class_names)
