"""Batches of jobs that arrive one by one: a bounded queue, and workers that take several jobs at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Generic, TypeVar

from mbv2kit.serving.errors import NoRoomError

Job = TypeVar("Job")
Made = TypeVar("Made")


class Batcher(Generic[Job, Made]):
    """Hands jobs to workers in batches, the oldest first.

    A job leaves the queue if its submitter is canceled. If a batch raises an exception, its jobs run one by one, so
    that a job fails by its own fault only.

    Args:
        workers: Each turns a batch into as many results, in the threads of ``pool``, one batch at a time.
        pool: Where they run.
        most: Jobs in a batch.
        wait: Seconds that a batch waits for more jobs once it has one.
        room: Jobs that may wait.
        count: Called with the size of each batch.

    Attributes:
        room: As given.
    """

    def __init__(
        self,
        workers: Sequence[Callable[[Sequence[Job]], Sequence[Made]]],
        pool: Executor,
        *,
        most: int,
        wait: float,
        room: int,
        count: Callable[[int], object] = lambda size: None,
    ) -> None:
        self.room = room
        self._workers = workers
        self._pool = pool
        self._most = most
        self._wait = wait
        self._count = count
        self._waiting: OrderedDict[asyncio.Future[Made], Job] = OrderedDict()
        self._arrived = asyncio.Event()
        # Two workers that fill a batch each would both wait for what the other has.
        self._filling = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    async def __aenter__(self) -> "Batcher[Job, Made]":
        """Starts the workers."""
        self._tasks = [asyncio.create_task(self._run(worker)) for worker in self._workers]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops the workers; jobs that wait get no result."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, jobs: Sequence[Job]) -> list[Made]:
        """Returns the result of each job.

        Raises:
            NoRoomError: The queue has no room for all of them; none is taken.
            Exception: What a worker raises for one of them.
        """
        self.check_room(len(jobs))
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Made]] = [loop.create_future() for _ in jobs]
        self._waiting.update(zip(futures, jobs, strict=True))
        self._arrived.set()
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                self._waiting.pop(future, None)
                future.cancel()

    def check_room(self, jobs: int = 1) -> None:
        """Raises :class:`NoRoomError` unless the queue has room for some jobs."""
        if len(self._waiting) + jobs > self.room:
            raise NoRoomError(f"{len(self._waiting)} images wait, and no more than queue={self.room} may")

    async def _run(self, worker: Callable[[Sequence[Job]], Sequence[Made]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = {future: job for future, job in (await self._fill()).items() if not future.done()}
            if not batch:
                continue
            self._count(len(batch))
            outcomes = await loop.run_in_executor(self._pool, _outcomes, worker, list(batch.values()))
            for future, outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    async def _fill(self) -> dict[asyncio.Future[Made], Job]:
        async with self._filling:
            batch = await self._take(self._most)
            if len(batch) < self._most and self._wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._wait):
                        while len(batch) < self._most:
                            batch |= await self._take(self._most - len(batch))
            return batch

    async def _take(self, most: int) -> dict[asyncio.Future[Made], Job]:
        """Takes up to ``most`` of the waiting jobs, as soon as there is one."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return dict(self._waiting.popitem(last=False) for _ in range(min(most, len(self._waiting))))


def _outcomes(worker: Callable[[Sequence[Job]], Sequence[Made]], jobs: Sequence[Job]) -> Sequence[Made | Exception]:
    """Returns the result of each job, or the exception that it raises."""
    try:
        return worker(jobs)
    except Exception as error:
        if len(jobs) == 1:
            return [error]
        return [outcome for job in jobs for outcome in _outcomes(worker, [job])]
