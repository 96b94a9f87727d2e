"""Finds the order of a network's operations with the smallest activation memory (Section 5.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from mbv2kit.analysis.graph import Graph, ancestors, bits, dependencies, users


@dataclass(frozen=True, slots=True)
class BestOrder:
    """The order of a graph's operations with the smallest peak memory.

    Attributes:
        peak: Most bytes held at once.
        order: Indices of the operations.
        step: Position in ``order`` of the first operation that reaches the peak.
        live: Indices of the storages held at that operation.
    """

    peak: int
    order: tuple[int, ...]
    step: int
    live: tuple[int, ...]


def peak_memory(graph: Graph) -> BestOrder:
    """Finds the order of the operations with the smallest peak memory, exactly: M(G) of Section 5.1.

    While an operation runs, memory holds what it reads and writes, its workspace, and everything computed earlier that
    is read or returned later. A storage is freed as soon as its last user has run.

    The worst case is exponential in the number of parallel branches. All networks of this project, including NASNet-A
    with cells of ten branches, take less than a second.

    Raises:
        ValueError: The graph has no operation.
    """
    if not graph.operations:
        raise ValueError("a graph without operations has no peak")
    search = _Search(graph)
    return search.plan(search.run())


def live_storages(graph: Graph, done: int, running: int) -> tuple[int, ...]:
    """Returns the storages held while operation ``running`` runs, after the operations in the mask ``done``."""
    started = done | 1 << running
    live = []
    for index, touching in enumerate(users(graph)):
        there = index in graph.inputs or bool(touching and started >> touching[0] & 1)
        needed = index in graph.outputs or any(not done >> user & 1 for user in touching)
        if there and needed:
            live.append(index)
    return tuple(live)


@dataclass(frozen=True, slots=True)
class _State:
    """The operations done and those ready to run, as masks; the bytes held; and the last step with the state before."""

    done: int
    held: int
    ready: int
    last: int
    before: "_State | None"


class _Search:
    """Best-first search for the order of operations whose largest step is smallest.

    The memory held depends only on which operations are done, not on their order, so the nodes are sets of operations.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.size = len(graph.operations)
        self.needs = dependencies(graph)
        self.enables: list[int] = [0] * self.size
        for position, needed in enumerate(self.needs):
            for earlier in bits(needed):
                self.enables[earlier] |= 1 << position
        # Bytes that each operation allocates; and the storages that it may free, as (mask of all users, bytes).
        self.adds = [0] * self.size
        self.releases: list[list[tuple[int, int]]] = [[] for _ in range(self.size)]
        self.start = 0
        self.lifetimes: list[tuple[int, int, int]] = []
        for index, touching in enumerate(users(graph)):
            size, there, stays = graph.storages[index].bytes, index in graph.inputs, index in graph.outputs
            mask = sum(1 << user for user in touching)
            if there and (touching or stays):
                self.start += size
            elif touching:
                self.adds[touching[0]] += size
            if not stays:
                for user in touching:
                    self.releases[user].append((mask, size))
            if touching or (there and stays):
                self.lifetimes.append((0 if there else 1 << touching[0], -1 if stays else mask, size))

    def run(self) -> _State:
        """Returns the final state of the best order."""
        ready = sum(1 << position for position, needed in enumerate(self.needs) if not needed)
        numbers = count()
        bound = self._least_bound()
        heap = [(bound, 0, next(numbers), self._settle(_State(0, self.start, ready, -1, None), bound))]
        seen: set[int] = set()
        while True:
            bound, _, _, state = heappop(heap)
            if state.done.bit_count() == self.size:
                return state
            if state.done in seen:
                continue
            seen.add(state.done)
            for position in bits(state.ready):
                needed = max(bound, self._during(state, position))
                following = self._settle(self._step(state, position), needed)
                if following.done not in seen:
                    # Among equal bounds, the state with the most operations done comes first: fewer states are visited.
                    heappush(heap, (needed, -following.done.bit_count(), next(numbers), following))

    def plan(self, state: _State) -> BestOrder:
        """Returns the order of operations that led to ``state``."""
        steps = list(_way(state))[::-1]
        held = [self._during(before, position) for before, position in steps]
        peak = max(held)
        step = held.index(peak)
        before, position = steps[step]
        live = live_storages(self.graph, before.done, position)
        return BestOrder(peak, tuple(position for _, position in steps), step, live)

    def _during(self, state: _State, position: int) -> int:
        return state.held + self.adds[position] + self.graph.operations[position].internal_bytes

    def _step(self, state: _State, position: int) -> _State:
        done = state.done | 1 << position
        freed = sum(size for mask, size in self.releases[position] if not mask & ~done)
        ready = state.ready & ~(1 << position)
        for later in bits(self.enables[position]):
            if not self.needs[later] & ~done:
                ready |= 1 << later
        return _State(done, state.held + self.adds[position] - freed, ready, position, state)

    def _settle(self, state: _State, bound: int) -> _State:
        """Runs all operations that cost nothing: those within ``bound`` that do not increase the bytes held.

        This keeps the result optimal. What an operation allocates is fixed, and what it frees only grows as others are
        done, so an operation that does not increase the bytes held now would not do so later either. Moved to the front
        of any order, it therefore increases the memory at no other step, and its own step is within the bound.
        """
        position = self._free_step(state, bound)
        while position is not None:
            state = self._step(state, position)
            position = self._free_step(state, bound)
        return state

    def _free_step(self, state: _State, bound: int) -> int | None:
        for position in bits(state.ready):
            if self._during(state, position) <= bound and self._step(state, position).held <= state.held:
                return position
        return None

    def _least_bound(self) -> int:
        """Returns a lower bound of the peak: the largest memory that an operation needs in any order."""
        before = ancestors(self.graph)
        behind = [0] * self.size
        for position, mask in enumerate(before):
            for earlier in bits(mask):
                behind[earlier] |= 1 << position
        return max(
            operation.internal_bytes
            + sum(
                size
                for first, mask, size in self.lifetimes
                if not first & ~(before[position] | 1 << position) and mask & (behind[position] | 1 << position)
            )
            for position, operation in enumerate(self.graph.operations)
        )


def _way(state: _State) -> Iterator[tuple[_State, int]]:
    """Yields the steps that led to ``state``, the last one first, as (state before, operation)."""
    while state.before is not None:
        yield state.before, state.last
        state = state.before
