import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mbv2kit.errors import UserError
from mbv2kit.serving.batching import Batcher
from mbv2kit.serving.errors import NoRoomError
from tests.serving.served import until


class Worker:
    """Doubles numbers once it may; a negative one is an error."""

    def __init__(self) -> None:
        self.may_run = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.may_run.wait()
        if min(jobs) < 0:
            raise UserError(f"{min(jobs)} is negative")
        return [2 * job for job in jobs]


def run(test: Any, workers: Sequence[Worker], **options: Any) -> None:
    async def whole() -> None:
        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                async with Batcher[int, int](workers, pool, **({"most": 1, "wait": 0, "room": 8} | options)) as batcher:
                    await test(batcher)
            finally:
                for worker in workers:
                    worker.may_run.set()

    asyncio.run(whole())


def test_results_belong_to_their_jobs_and_batches_are_full_but_no_larger() -> None:
    worker = Worker()

    async def test(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit([100]))
        await until(lambda: worker.batches)
        tasks = [asyncio.create_task(batcher.submit([number, number + 10])) for number in range(3)]
        await until(lambda: len(batcher) == 6)
        worker.may_run.set()
        assert await first == [200]
        assert await asyncio.gather(*tasks) == [[0, 20], [2, 22], [4, 24]]

    run(test, [worker], most=4)
    assert worker.batches == [[100], [0, 10, 1, 11], [2, 12]]


def test_a_batch_waits_for_more_jobs_but_not_for_ever() -> None:
    worker = Worker()
    worker.may_run.set()

    async def full(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit([number])) for number in range(3)]
        assert await asyncio.gather(*tasks) == [[0], [2], [4]]

    # A full batch goes at once: an hour would not pass.
    run(full, [worker], most=3, wait=3600)

    async def single(batcher: Batcher[int, int]) -> None:
        assert await batcher.submit([5]) == [10]

    run(single, [worker], most=3, wait=0.001)
    assert worker.batches == [[0, 1, 2], [5]]


def test_two_workers_fill_one_batch_after_the_other() -> None:
    workers = [Worker(), Worker()]

    async def test(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit([number])) for number in range(4)]
        await until(lambda: all(worker.batches for worker in workers))
        for worker in workers:
            worker.may_run.set()
        assert await asyncio.gather(*tasks) == [[0], [2], [4], [6]]

    run(test, workers, most=2, wait=3600)
    assert sorted(batch for worker in workers for batch in worker.batches) == [[0, 1], [2, 3]]


def test_a_full_queue_takes_all_jobs_of_a_request_or_none() -> None:
    worker = Worker()

    async def test(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit([1]))
        await until(lambda: worker.batches)
        waiting = asyncio.create_task(batcher.submit([2, 3]))
        await until(lambda: len(batcher) == 2)
        with pytest.raises(NoRoomError, match="2 images wait, and no more than queue=3 may; try again in a moment"):
            await batcher.submit([4, 5])
        last = asyncio.create_task(batcher.submit([6]))
        await until(lambda: len(batcher) == 3)
        worker.may_run.set()
        assert [await task for task in (first, waiting, last)] == [[2], [4, 6], [12]]

    run(test, [worker], room=3)


def test_jobs_of_a_canceled_submitter_leave_the_queue_and_are_not_computed() -> None:
    worker = Worker()

    async def test(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit([1]))
        await until(lambda: worker.batches)
        gone = asyncio.create_task(batcher.submit([2, 3]))
        await until(lambda: len(batcher) == 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert len(batcher) == 0
        # Not even one that is being computed keeps the others from their results.
        first.cancel()
        after = asyncio.create_task(batcher.submit([4]))
        await until(lambda: len(batcher) == 1)
        worker.may_run.set()
        assert await after == [8]

    run(test, [worker])
    assert worker.batches == [[1], [4]]


def test_a_job_fails_by_its_own_fault_only() -> None:
    worker = Worker()
    worker.may_run.set()

    async def test(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit([number])) for number in (1, -2, 3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[::2] == [[2], [6]]
        assert str(results[1]) == "-2 is negative"
        # A request fails with any of its images.
        with pytest.raises(UserError, match="-5 is negative"):
            await batcher.submit([4, -5, 6])
        assert await batcher.submit([7]) == [14]

    run(test, [worker], most=3, wait=0.01)
