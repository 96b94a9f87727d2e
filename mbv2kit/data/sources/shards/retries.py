"""How often something is tried again, and how long it waits in between."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_FIRST, _LONGEST = 0.5, 30.0
# Not the generator that training seeds; and workers that fail together must not come back together.
_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential backoff with full jitter.

    Attributes:
        count: How often it is tried again.
        sleep: Waits for a number of seconds.
    """

    count: int
    sleep: Callable[[float], None] = time.sleep

    def __iter__(self) -> Iterator[int]:
        """Yields the number of each attempt, and waits before all but the first: up to 0.5, 1, 2, ... 30 seconds."""
        yield 0
        for number in range(self.count):
            self.sleep(_chance.uniform(0, min(_LONGEST, _FIRST * 2**number)))
            yield number + 1
