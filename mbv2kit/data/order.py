"""Which images make which batch: a function of the seed and the epoch alone, so that a run can go on anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mbv2kit.errors import UserError

# The epoch, the number of the image, and how often it has come before in the epoch, if it has.
Place = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the images of a data set lie where reading them in any order would be slow.

    Attributes:
        numbers: ``(N,)`` int64, the block of each image; blocks are read one after another.
        window: Images among which an epoch shuffles: none comes ``window`` or more places from where it is read.
    """

    numbers: NDArray[np.int64]
    window: int

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns the images in a random order that is near to the order of reading: blocks at random, then a window.

        A window of all images gives any order the same chance.
        """
        if self.window >= len(self.numbers):
            return rng.permutation(len(self.numbers))
        ranks = rng.permutation(int(self.numbers.max()) + 1)
        read = np.argsort(ranks[self.numbers], kind="stable")
        places = np.arange(len(read)) + self.window * rng.random(len(read))
        return read[np.argsort(places, kind="stable")]


class EpochSampler(Sampler[list[Place]]):
    """Yields batches of places in an order that depends only on the seed and the epoch.

    A batch holds a fixed number of images of each data set. An epoch ends when every data set was gone through; smaller
    ones start over until then, each time in a new order. An incomplete last batch is dropped.

    Args:
        counts: Number of images of each data set, which follow each other in the numbers of the images.
        shares: Images of each data set in a batch.
        seed: Seed of the order.
        repeats: How often a batch repeats the shares.
        blocks: How the images of each data set lie, None for those that any order reads as fast; None if all are such.

    Attributes:
        shares: As given, but no more than a data set has.
        epoch: The epoch of the next iteration.
        start: Number of batches to skip, for a run that resumes in the middle of the epoch.
    """

    def __init__(
        self,
        counts: Sequence[int],
        shares: Sequence[int],
        seed: int,
        repeats: int = 1,
        blocks: Sequence[Blocks | None] | None = None,
    ) -> None:
        self._counts = counts
        self._blocks = blocks or [None] * len(counts)
        self.shares = tuple(min(share, count) for share, count in zip(shares, counts, strict=True))
        self._seed = seed
        self._repeats = repeats
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return max(count // (share * self._repeats) for count, share in zip(self._counts, self.shares, strict=True))

    def __iter__(self) -> Iterator[list[Place]]:
        streams = [self._stream(number) for number in range(len(self._counts))]
        for batch in range(len(self)):
            rounds = [zip(streams, self.shares, strict=True) for _ in range(self._repeats)]
            places = [next(stream) for each in rounds for stream, share in each for _ in range(share)]
            if batch >= self.start:
                yield places

    def _stream(self, number: int) -> Iterator[Place]:
        """Yields the places of one data set without end."""
        first = sum(self._counts[:number])
        turn = 0
        while True:
            for index in self._order(number, turn):
                place = (self.epoch, first + int(index))
                yield (*place, turn) if turn else place
            turn += 1

    def _order(self, number: int, turn: int) -> NDArray[np.int64]:
        key = (self._seed, self.epoch, *((number, turn) if number or turn else ()))
        rng, blocks = np.random.default_rng(key), self._blocks[number]
        return rng.permutation(self._counts[number]) if blocks is None else blocks.order(rng)


def in_step(counts: Sequence[int]) -> list[int]:
    """Returns the numbers of all images, the first of every data set before the second of any.

    So the first batches of a validation hold images of all data sets, where it is limited to these.

    Args:
        counts: Number of images of each data set, which follow each other in the numbers of the images.
    """
    places = np.concatenate([np.arange(count) for count in counts])
    order: list[int] = np.argsort(places, kind="stable").tolist()
    return order


def share_out(batch_size: int, ratio: Sequence[float]) -> tuple[int, ...]:
    """Divides the images of a batch among data sets, as near to a ratio as whole numbers come.

    Args:
        batch_size: Images in a batch.
        ratio: Weight of each data set, above 0.

    Returns:
        The images of each data set, at least two of each, because a head cannot normalize over one.

    Raises:
        UserError: The batch is too small for that.
    """
    least = 2 * len(ratio)
    if len(ratio) == 1:
        return (batch_size,)
    if batch_size < least:
        raise UserError(
            f"loader.batch_size is {batch_size}, but there are {len(ratio)} data sets, and batch normalization needs "
            f"two images of each; set it to {least} or more."
        )
    exact = batch_size * np.array(ratio, dtype=np.float64) / sum(ratio)
    shares = np.full(len(ratio), 2)
    for _ in range(batch_size - least):
        shares[np.argmax(exact - shares)] += 1
    return tuple(shares.tolist())
