"""Optimizes a graph as inference engines do: folds batch norms and runs activations in place."""

from collections.abc import Mapping
from dataclasses import replace

from mbv2kit.analysis.graph import Graph, Operation, ancestors, users


def fold_norms(graph: Graph) -> Graph:
    """Folds each batch normalization into the preceding convolution if nothing else reads that convolution's result."""
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
    """Lets elementwise operations, such as ReLU6 or an addition, overwrite an input that nothing else needs any more.

    All other users of such an input come earlier in every order, so every order remains possible. Inputs and outputs of
    the graph are never overwritten.
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
    """Returns the operation with its storages replaced."""
    reads, writes, overwritable = (
        tuple(homes.get(index, index) for index in indices)
        for indices in (operation.reads, operation.writes, operation.overwritable)
    )
    return replace(operation, reads=reads, writes=writes, overwritable=overwritable)
