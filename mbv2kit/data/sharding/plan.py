"""Which images make which shard, before the first one is read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.joined import Joined
from mbv2kit.data.sources.shards.schema import FORMAT

# What WebDataset, object stores and URLs take as it is.
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar that is to be written.

    Attributes:
        name: Its name without suffix.
        split: The split of its images.
        indices: ``(N,)`` int64, the images.
        first: Place of the first of them in the order of the split.
    """

    name: str
    split: str
    indices: NDArray[np.int64]
    first: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards, in their order, which depends on nothing but the arguments of :func:`plan_shards`.

    Attributes:
        splits: The images of each split.
        shards: The tars.
        prefixes: For each split the beginning of the names of its tars and keys.
        fingerprint: Differs for other images, or another way to write them.
    """

    splits: Mapping[str, Joined]
    shards: Sequence[Shard]
    prefixes: Mapping[str, str]
    fingerprint: str


def plan_shards(splits: Mapping[str, Joined], shuffled: Sequence[str], seed: int, images_per_shard: int) -> Plan:
    """Divides the images of some splits among shards.

    Args:
        splits: The images of each split, each from one data set.
        shuffled: Splits whose images are put into a random order; the others keep theirs.
        seed: Seed of that order.
        images_per_shard: Images in a shard; the last one of a split may have fewer.
    """
    prefixes: dict[str, str] = {}
    for split in splits:
        prefix = _UNSAFE.sub("_", split)[:100].lstrip("-") or "_"
        while prefix in prefixes.values():
            prefix += "_"
        prefixes[split] = prefix
    shards, digests = [], {}
    for place, (split, images) in enumerate(splits.items()):
        count = len(images)
        mixes = split in shuffled
        order = np.random.default_rng((seed, place)).permutation(count) if mixes else np.arange(count)
        for number, first in enumerate(range(0, count, images_per_shard)):
            indices = order[first : first + images_per_shard]
            shards.append(Shard(f"{prefixes[split]}-{number:06d}", split, indices, first))
        digests[split] = [_digest(images), mixes]
    settings = json.dumps([FORMAT, digests, seed, images_per_shard])
    return Plan(splits, shards, prefixes, sha256(settings.encode()).hexdigest())


def _digest(images: Joined) -> str:
    """Returns a hash of the names of the images and classes for each task."""
    digest = sha256()
    for head, source in images.sources.items():
        digest.update(json.dumps([head, source.class_names, len(source)]).encode())
        for name in source.image_names():
            digest.update(json.dumps(name).encode())
    return digest.hexdigest()
