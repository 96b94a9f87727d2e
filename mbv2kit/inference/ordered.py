"""Several threads do a list of jobs, and the results come in the order of the list."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that may wait for a slower one before them, for each thread: enough to keep the others busy meanwhile.
_AHEAD = 4


def in_order(workers: Sequence[Callable[[Item], Result]], items: Iterable[Item]) -> Iterator[Result]:
    """Yields what is made of each item, in the order of the items, each worker busy with one of them at a time.

    A single worker runs in the caller's thread, as each result is asked for. Several run in a thread each, ahead of
    the caller but never by more than a few items, so that memory does not grow with their number. What a worker
    raises is raised here, in the place of its result. When the caller stops, what is not yet begun is left undone.

    Args:
        workers: At least one; each is called by one thread at a time.
        items: What to work on.
    """
    if len(workers) == 1:
        yield from map(workers[0], items)
        return
    idle: SimpleQueue[Callable[[Item], Result]] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def work(item: Item) -> Result:
        worker = idle.get()
        try:
            return worker(item)
        finally:
            idle.put(worker)

    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="worker")
    try:
        for item in items:
            if len(pending) == _AHEAD * len(workers):
                yield pending.popleft().result()
            pending.append(pool.submit(work, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
