"""The same network with fewer steps or less memory: what an inference engine does to a graph before it runs it."""

from collections.abc import Mapping
from dataclasses import replace

from mbv2kit.analysis.graph import Graph, Operation, ancestors, users


def fold_norms(graph: Graph) -> Graph:
    """Makes every batch normalization that alone reads a convolution's result a part of that convolution."""
    operations: list[Operation | None] = list(graph.operations)
    touching = users(graph)
    for position, norm in enumerate(graph.operations):
        if norm.name != "batch_norm" or set(norm.reads) & {*graph.inputs, *graph.outputs}:
            continue
        producer, *readers = touching[norm.reads[0]]
        convolution = graph.operations[producer]
        if convolution.convolution is not None and readers == [position]:
            operations[producer] = replace(convolution, writes=norm.writes, norm=norm)
            operations[position] = None
    return replace(graph, operations=tuple(operation for operation in operations if operation is not None))


def in_place_activations(graph: Graph) -> Graph:
    """Lets every operation that works value by value, such as ReLU6 or an addition, write over what nobody needs again.

    It takes an input that all its other users come before in every order, so no order is lost; the inputs and outputs
    of the graph are left alone.
    """
    before = ancestors(graph)
    touching = users(graph)
    kept = {*graph.inputs, *graph.outputs}
    homes: dict[int, int] = {}
    operations = []
    for position, operation in enumerate(graph.operations):
        others = ~(before[position] | 1 << position)
        is_in_place = bool(set(operation.writes) & set(operation.reads))
        for old in () if is_in_place else operation.overwritable:
            home = homes.get(old, old)
            (new,) = operation.writes
            if home not in kept and not any(others >> user & 1 for user in touching[home]):
                homes[new] = home
                touching[home] += touching[new]
                kept |= {home} if new in kept else set()
                break
        operations.append(_moved(operation, homes))
    outputs = tuple(homes.get(index, index) for index in graph.outputs)
    return replace(graph, operations=tuple(operations), outputs=outputs)


def _moved(operation: Operation, homes: Mapping[int, int]) -> Operation:
    """The operation with every storage where it is now."""
    reads, writes, overwritable = (
        tuple(homes.get(index, index) for index in indices)
        for indices in (operation.reads, operation.writes, operation.overwritable)
    )
    return replace(operation, reads=reads, writes=writes, overwritable=overwritable)
