"""Processes items in several threads, with results in the order of the items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results per thread that may wait for an earlier, slower one; enough to keep the other threads busy.
_AHEAD = 4


def in_order(workers: Sequence[Callable[[Item], Result]], items: Iterable[Item]) -> Iterator[Result]:
    """Yields the result of each item, in the order of the items; each worker processes one item at a time.

    A single worker runs in the caller's thread, when a result is requested. Several workers run in a thread each, at
    most a few items ahead of the caller, so that memory does not grow with the number of items. An exception of a
    worker is raised here, in place of its result. When the caller stops, remaining items are not processed.

    Args:
        workers: At least one; each is called by one thread at a time.
        items: The items to process.
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
