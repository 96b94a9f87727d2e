"""The least memory that a network's activations need, over all orders of its operations (Section 5.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from mbv2kit.analysis.graph import Graph, ancestors, bits, dependencies, users


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The best order in which to run a graph, and what it needs.

    Attributes:
        peak: The most bytes that are held at once.
        order: Indices of the operations.
        step: Place in ``order`` of the first operation during which the peak is reached.
        live: Indices of the storages that are held then.
    """

    peak: int
    order: tuple[int, ...]
    step: int
    live: tuple[int, ...]


def peak_memory(graph: Graph) -> MemoryPlan:
    """Finds the order of the operations that needs the least memory, exactly: M(G) of Section 5.1.

    While an operation runs, memory holds what it reads and writes, what it needs for itself, and all that was there
    before and is read or returned later. A storage is given back as soon as its last user has run.

    At worst the search takes time exponential in the number of branches that lie side by side. All networks of this
    project, NASNet-A's cells of ten branches among them, are a matter of less than a second.

    Raises:
        ValueError: The graph has no operation.
    """
    if not graph.operations:
        raise ValueError("a graph without operations has no peak")
    search = _Search(graph)
    return search.plan(search.run())


def live_storages(graph: Graph, done: int, running: int) -> tuple[int, ...]:
    """Returns the storages that are held while the operation ``running`` runs behind those of the mask ``done``."""
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
    """The operations that have run, as a mask; the bytes held behind them; those that may run next; the way here."""

    done: int
    held: int
    ready: int
    last: int
    before: "_State | None"


class _Search:
    """A best-first search for the way from no operation done to all done whose largest step is the least.

    Which operations are done says all about what is held, so sets of operations are the nodes, whatever their order.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.size = len(graph.operations)
        self.needs = dependencies(graph)
        self.enables: list[int] = [0] * self.size
        for position, needed in enumerate(self.needs):
            for earlier in bits(needed):
                self.enables[earlier] |= 1 << position
        # What a step adds to the memory, and the storages that it may give back with the mask of all their users.
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
        """Returns the last state of the best way."""
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
                    # Among equal bounds the state that is furthest goes on, so that a bound that suffices ends soon.
                    heappush(heap, (needed, -following.done.bit_count(), next(numbers), following))

    def plan(self, state: _State) -> MemoryPlan:
        """Reads the way to ``state`` back."""
        steps = list(_way(state))[::-1]
        held = [self._during(before, position) for before, position in steps]
        peak = max(held)
        step = held.index(peak)
        before, position = steps[step]
        live = live_storages(self.graph, before.done, position)
        return MemoryPlan(peak, tuple(position for _, position in steps), step, live)

    def _during(self, state: _State, position: int) -> int:
        return state.held + self.adds[position] + self.graph.operations[position].internal_bytes

    def _step(self, state: _State, position: int) -> _State:
        done = state.done | 1 << position
        given_back = sum(size for mask, size in self.releases[position] if not mask & ~done)
        ready = state.ready & ~(1 << position)
        for later in bits(self.enables[position]):
            if not self.needs[later] & ~done:
                ready |= 1 << later
        return _State(done, state.held + self.adds[position] - given_back, ready, position, state)

    def _settle(self, state: _State, bound: int) -> _State:
        """Runs all that costs nothing: steps that fit under ``bound`` and leave no more held than before.

        Nothing is lost by it. What a step adds is fixed and what it gives back only grows with the steps that are done,
        so one that does not raise what is held now would not do so later either. Moved to the front of any order it
        therefore leaves no more held at any step of the rest, and its own step fits.
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
        """The most that is held at any operation in every order: a bound from below, which is often the answer."""
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
    """The steps that led to ``state``, the last one first: what was done before, and the operation."""
    while state.before is not None:
        yield state.before, state.last
        state = state.before
