"""Drawn scenes that tests write as shards, and what compares two sources."""

from pathlib import Path
from typing import Any

import numpy as np

from mbv2kit.data.joined import Joined
from mbv2kit.data.sharding.run import make_shards
from mbv2kit.data.sources import Source, create_source
from mbv2kit.structures import TASKS, Sample

COUNTS = {"train": 40, "val": 12}
SIZE = 64


def drawn(task: Any, split: str) -> Source:
    """Returns the scenes that the shards hold."""
    return create_source("shapes", task=task, split=split, size=SIZE, train_count=40, val_count=12)


def splits() -> dict[str, Joined]:
    return {split: Joined({task: drawn(task, split) for task in TASKS}) for split in COUNTS}


def make(output: Path, **options: Any) -> Any:
    """Writes the scenes as shards of sixteen images."""
    usual: dict[str, Any] = {"shuffled": ["train"], "seed": 0, "images_per_shard": 16, "workers": 0}
    return make_shards(splits(), output, **(usual | options))


def assert_same_sample(ours: Sample, theirs: Sample) -> None:
    assert ours.image_id == theirs.image_id
    assert ours.label == theirs.label
    for name in ("image", "boxes", "labels", "crowd", "mask"):
        assert_same_array(getattr(ours, name), getattr(theirs, name))
    assert (ours.annotated is None) == (theirs.annotated is None)
    if ours.annotated is not None and theirs.annotated is not None:
        assert ours.annotated.order == theirs.annotated.order
        for name in ("boxes", "class_ids", "crowd", "areas"):
            assert_same_array(getattr(ours.annotated, name), getattr(theirs.annotated, name))


def assert_same_array(ours: Any, theirs: Any) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def assert_same_images(ours: Source, theirs: Source) -> None:
    """Compares all images of two sources, by name."""
    assert ours.class_names == theirs.class_names
    places = {name: place for place, name in enumerate(theirs.image_names())}
    assert sorted(places) == sorted(ours.image_names())
    for place, name in enumerate(ours.image_names()):
        other = places[name]
        assert_same_sample(ours[place], theirs[other])
        if ours.knows_classes == theirs.knows_classes:
            np.testing.assert_array_equal(np.sort(ours.class_ids(place)), np.sort(theirs.class_ids(other)))
