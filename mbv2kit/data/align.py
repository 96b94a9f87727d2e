"""Maps the labels of a data set to the class ids of a model that lists the same classes differently."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.names import are_numbered, same_but_for_case
from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError, first_few
from mbv2kit.imaging.images import EncodedImage
from mbv2kit.structures import IGNORE, Annotated, Boxes, Sample

logger = logging.getLogger(__name__)

_IMAGENET_CLASSES = 1000
_IMAGENET_FIRST = ["tench", "goldfish", "great white shark"]
_WNID = re.compile(r"n\d{8}")
# Lists of ImageNet's classes differ in two to four names; a list in another order has almost no name in its place.
_SAME_SHARE = 0.99


class AlignedSource(Source):
    """A source with the class ids of another list of classes.

    Args:
        source: Source of the samples.
        class_names: The model's classes, in the model's order.
        ids: The model's class id for each class of the source; -1 for one whose objects are left out.
    """

    def __init__(self, source: Source, class_names: Sequence[str], ids: Sequence[int]) -> None:
        self.class_names = tuple(class_names)
        self.dropped_boxes = source.dropped_boxes
        self.knows_classes = source.knows_classes
        self.shuffle_window = source.shuffle_window
        self.left_out = tuple(name for name, place in zip(source.class_names, ids, strict=True) if place < 0)
        self._source = source
        self._ids = np.array(ids, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        if sample.label is not None:
            sample = replace(sample, label=int(self._ids[sample.label]))
        if sample.labels is not None:
            sample = _with_labels(sample, self._ids[sample.labels])
        if (annotated := sample.annotated) is not None:
            sample = replace(sample, annotated=_with_class_ids(annotated, self._ids[annotated.class_ids]))
        if sample.mask is not None:
            table = np.full(256, IGNORE, dtype=np.uint8)
            table[: len(self._ids)] = self._ids
            sample = replace(sample, mask=table[sample.mask])
        return sample

    def image_file(self, index: int) -> Path | None:
        """Returns the file of the source's image."""
        return self._source.image_file(index)

    def encoded_image(self, index: int) -> EncodedImage:
        """Returns the content of the file of the source's image."""
        return self._source.encoded_image(index)

    def blocks(self) -> NDArray[np.int64] | None:
        """Returns the blocks of the source."""
        return self._source.blocks()

    def image_names(self) -> Iterable[str]:
        """Returns the names of the source's images."""
        return self._source.image_names()

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the model's ids of what the source counts."""
        ids = self._source.class_ids(index)
        return np.where(ids < 0, ids, self._ids[ids])

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields the sizes and boxes of the source, which have no labels; it may know them without reading images."""
        return self._source.objects()


def _with_labels(sample: Sample, labels: NDArray[np.int64]) -> Sample:
    """Returns a sample with other labels of its boxes, without those of a negative label."""
    assert sample.boxes is not None
    assert sample.crowd is not None
    kept = labels >= 0
    return replace(sample, boxes=sample.boxes[kept], labels=labels[kept], crowd=sample.crowd[kept])


def _with_class_ids(annotated: Annotated, class_ids: NDArray[np.int64]) -> Annotated:
    kept = class_ids >= 0
    return replace(
        annotated,
        boxes=annotated.boxes[kept],
        class_ids=class_ids[kept],
        crowd=annotated.crowd[kept],
        areas=annotated.areas[kept],
    )


def align_classes(source: Source, class_names: Sequence[str], *, leave_out: bool = False) -> Source:
    """Returns the source with the class ids and class names of a model.

    Equal names belong together, whatever their order. Only names that are left over are compared loosely, one to one:
    first without case, underscores and the form of their Unicode, then without synonyms and a note in parentheses. The
    log says which. The thousand classes of ImageNet, which every list names differently, go by their place.

    Args:
        source: Source of the samples.
        class_names: The model's classes, in the model's order.
        leave_out: Whether objects of classes that the model does not know are left out, as long as it knows some.

    Raises:
        UserError: The source has classes that the model does not know, or that several of the model's may be.
    """
    if tuple(class_names) == source.class_names:
        return source
    ids = _match(source.class_names, class_names)
    unknown = [name for index, name in enumerate(source.class_names) if index not in ids]
    if unknown and not (leave_out and ids):
        remedy = (
            "name its classes with class_names=FILE, a line each"
            if are_numbered(class_names)
            else "evaluate on its own classes"
        )
        raise UserError(
            f"The data set has classes that the model does not know: {first_few(unknown)}. The model knows "
            f"{first_few(class_names)}; {remedy}, or train on this data set."
        )
    return AlignedSource(source, class_names, [ids.get(index, -1) for index in range(len(source.class_names))])


def _match(names: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """Returns the place of each name in another list that has it; the names of a list are distinct."""
    ids = _equal(names, others)
    if len(ids) < len(names):
        similar = _by_place(names, ids) if _are_imagenet(names, others) else _by_similar_names(names, others, ids)
        said = [f"'{names[i]}' as '{others[j]}'" for i, j in similar.items() if names[i] != others[j]]
        if said:
            logger.info("Took %d classes of the data set for similar ones of the model: %s", len(said), first_few(said))
        ids = {**ids, **similar}
    return ids


def _equal(names: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """Returns the place of every name that occurs exactly once in the other list."""
    places = {name: place for place, name in enumerate(others)}
    twice = {name for place, name in enumerate(others) if places[name] != place}
    return {index: places[name] for index, name in enumerate(names) if name in places and name not in twice}


def _are_imagenet(names: Sequence[str], others: Sequence[str]) -> bool:
    """Tells whether two lists hold the classes of ImageNet in their usual order, which follows the WordNet ids."""
    if not len(names) == len(others) == _IMAGENET_CLASSES:
        return False
    if all(_WNID.fullmatch(name) for name in names):
        return sorted(names) == list(names)
    plain, same = [_plain(name) for name in names], [_plain(name) for name in others]
    in_place = sum(name == other for name, other in zip(plain, same, strict=True))
    return plain[: len(_IMAGENET_FIRST)] == _IMAGENET_FIRST and in_place >= _SAME_SHARE * len(names)


def _by_place(names: Sequence[str], equal: Mapping[int, int]) -> dict[int, int]:
    """Returns its own place for each name, except for those that have only changed places among themselves."""
    moved = dict(equal)
    # "crane" is a bird in one list and a machine in another, where the bird is called "crane bird".
    while outside := [index for index, place in moved.items() if place not in moved]:
        for index in outside:
            del moved[index]
    return {index: moved.get(index, index) for index in range(len(names))}


def _by_similar_names(names: Sequence[str], others: Sequence[str], equal: Mapping[int, int]) -> dict[int, int]:
    """Pairs names that have no equal with a similar one that is left, and leaves out those that have none.

    Raises:
        UserError: A name has several similar ones.
    """
    found: dict[int, int] = {}
    for key in (same_but_for_case, _plain):
        left = [index for index in range(len(names)) if index not in equal and index not in found]
        free: dict[str, list[int]] = {}
        for place in sorted({*range(len(others))} - {*equal.values(), *found.values()}):
            free.setdefault(key(others[place]), []).append(place)
        fits = {
            index: [place for place in free.get(key(names[index]), ()) if _notes_agree(names[index], others[place])]
            for index in left
        }
        claims = Counter(place for places in fits.values() for place in places)
        for places in fits.values():
            if len(places) > 1 or any(claims[place] > 1 for place in places):
                mine = [names[each] for each in left if set(fits[each]) & set(places)]
                raise UserError(
                    f"The data set's {_listed(mine)} may each be the model's "
                    f"{_listed([others[place] for place in places])}; give them the same names in both."
                )
        found |= {index: places[0] for index, places in fits.items() if places}
    return found


def _listed(names: Sequence[str]) -> str:
    return f"{'class' if len(names) == 1 else 'classes'} " + first_few(f"'{name}'" for name in names)


def _plain(name: str) -> str:
    """Removes synonyms, a note in parentheses, underscores and capitals."""
    return same_but_for_case(name).partition(",")[0].partition(" (")[0].strip()


def _notes_agree(name: str, other: str) -> bool:
    """Tells whether two names do not contradict each other in what they say in parentheses."""
    notes = {same_but_for_case(each).partition(" (")[2] for each in (name, other)}
    return "" in notes or len(notes) == 1
