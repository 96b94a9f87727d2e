from collections.abc import Iterator
from threading import Barrier, Event, current_thread, main_thread

import pytest

from mbv2kit.inference.ordered import in_order


def test_results_come_in_the_order_of_the_items_whatever_their_speed() -> None:
    last_began = Event()

    def work(item: int) -> int:
        if item == 2:
            last_began.set()
        if item == 0:
            # The first item is done only once the last one is under way.
            assert last_began.wait(10)
        return item * item

    assert list(in_order([work, work], range(3))) == [0, 1, 4]


def test_every_worker_runs_in_its_own_thread() -> None:
    together = Barrier(3, timeout=10)

    def work(_: int) -> str:
        # Three calls get past it only if they are there at the same time.
        together.wait()
        return current_thread().name

    names = list(in_order([work] * 3, range(6)))
    assert len(set(names)) == 3
    assert main_thread().name not in names


def test_a_worker_is_called_by_one_thread_at_a_time() -> None:
    class Worker:
        busy = False

        def __call__(self, item: int) -> int:
            assert not self.busy
            self.busy = True
            sum(range(20_000))
            self.busy = False
            return item

    assert list(in_order([Worker(), Worker()], range(50))) == list(range(50))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_only_a_few_items_are_taken_ahead_of_the_results(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    results = in_order([lambda item: item] * workers, items())
    for count, _ in enumerate(results, start=1):
        assert taken - count <= 4 * workers
    assert taken == 1000


def test_a_single_worker_needs_no_thread_and_works_on_request() -> None:
    done: list[str] = []
    results = in_order([lambda item: done.append(current_thread().name)], range(3))
    next(results)
    assert done == [main_thread().name]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_is_raised_in_place_of_its_result(workers: int) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise OSError("full")
        return item

    results = in_order([work] * workers, range(100))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="full"):
        next(results)


def test_after_the_caller_has_stopped_no_item_is_started() -> None:
    begun: list[int] = []
    results = in_order([begun.append] * 2, range(1000))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 1 + 2 * 4


def test_no_items_give_no_results() -> None:
    assert list(in_order([abs, abs], [])) == []
