import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.analysis.contractions import fold_norms, in_place_activations
from mbv2kit.analysis.graph import Graph, Operation, Storage, build_on_meta, trace
from mbv2kit.analysis.memory import BestOrder, live_storages, peak_memory
from mbv2kit.backbones import create_backbone, list_backbones
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Task


def graph_of(
    operations: Sequence[Operation], sizes: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> Graph:
    storages = tuple(Storage((size,), size, size) for size in sizes)
    return Graph(tuple(operations), storages, tuple(inputs), tuple(outputs), {})


def random_graph(seed: int) -> Graph:
    """Returns a graph of up to 7 operations, which read 1 to 3 storages and write new ones or one of those."""
    draw = random.Random(seed)
    inputs = list(range(draw.randint(1, 3)))
    sizes = [draw.randint(0, 20) for _ in inputs]
    operations = []
    for _ in range(draw.randint(3, 7)):
        reads = draw.sample(range(len(sizes)), min(len(sizes), draw.randint(1, 3)))
        # Prefers recent storages, so that some graphs are deep and others broad.
        if draw.random() < 0.5:
            reads = sorted({*reads[1:], len(sizes) - 1})
        if draw.random() < 0.25:
            writes = [draw.choice(reads)]
        else:
            writes = [len(sizes) + k for k in range(draw.choice([1, 1, 1, 2]))]
            sizes += [draw.randint(1, 20) for _ in writes]
        spare = draw.choice([0, 0, 0, draw.randint(1, 15)])
        operations.append(Operation("any", reads=tuple(reads), writes=tuple(writes), internal_bytes=spare))
    outputs = draw.sample(range(len(sizes)), draw.randint(0, 2))
    return graph_of(operations, sizes, inputs, outputs)


def bytes_at(graph: Graph, done: Sequence[int], running: int) -> int:
    """Section 5.1 literally: what exists and is still needed, what the operation writes, and its workspace."""
    there = set(graph.inputs).union(*(graph.operations[k].writes for k in (*done, running)))
    remaining = [op for k, op in enumerate(graph.operations) if k not in done]
    wanted = set(graph.outputs).union(*(op.reads for op in remaining), *(op.writes for op in remaining))
    return sum(graph.storages[k].bytes for k in there & wanted) + graph.operations[running].internal_bytes


def must_precede(graph: Graph, first: int, second: int) -> bool:
    """Returns whether two operations touch the same storage and one of them changes it."""
    a, b = graph.operations[first], graph.operations[second]
    return bool({*a.writes} & {*b.reads, *b.writes} or {*a.reads} & {*b.writes})


def brute_force(graph: Graph) -> int:
    size = len(graph.operations)
    needs = [[k for k in range(j) if must_precede(graph, k, j)] for j in range(size)]

    def best(done: tuple[int, ...]) -> int:
        ways = [k for k in range(size) if k not in done and set(needs[k]) <= set(done)]
        return min((max(bytes_at(graph, done, k), best((*done, k))) for k in ways), default=0)

    return best(())


def check(graph: Graph, plan: BestOrder) -> None:
    """Checks that the order is valid, and that its peak is at the given step and nowhere higher."""
    place = {operation: step for step, operation in enumerate(plan.order)}
    assert sorted(place) == list(range(len(graph.operations)))
    for j in place:
        assert all(place[k] < place[j] for k in range(j) if must_precede(graph, k, j))
    needs = [bytes_at(graph, plan.order[:step], running) for step, running in enumerate(plan.order)]
    assert plan.peak == max(needs) == needs[plan.step]
    assert plan.step == needs.index(plan.peak)
    running = graph.operations[plan.order[plan.step]]
    assert plan.peak == sum(graph.storages[k].bytes for k in plan.live) + running.internal_bytes


@pytest.mark.parametrize("seed", range(200))
def test_no_order_of_a_random_graph_needs_less(seed: int) -> None:
    graph = random_graph(seed)
    plan = peak_memory(graph)
    assert plan.peak == brute_force(graph)
    check(graph, plan)


def test_the_branch_that_frees_most_goes_first() -> None:
    # Two branches from one image of 10: one grows to 100 and leaves 1, the other leaves 50.
    image, wide, thin, thick, result = range(5)
    operations = [
        Operation("thick", reads=(image,), writes=(thick,)),
        Operation("widen", reads=(image,), writes=(wide,)),
        Operation("shrink", reads=(wide,), writes=(thin,)),
        Operation("join", reads=(thin, thick), writes=(result,)),
    ]
    plan = peak_memory(graph_of(operations, [10, 100, 1, 50, 2], [image], [result]))
    assert plan == BestOrder(peak=111, order=(1, 2, 0, 3), step=1, live=(image, wide, thin))


def test_the_workspace_of_an_operation_counts_while_it_runs() -> None:
    operations = [
        Operation("a", reads=(0,), writes=(1,), internal_bytes=7),
        Operation("b", reads=(1,), writes=(2,)),
    ]
    plan = peak_memory(graph_of(operations, [3, 2, 5], [0], [2]))
    assert (plan.peak, plan.step) == (12, 0)


def test_outputs_are_held_and_unused_inputs_are_not() -> None:
    operations = [Operation("a", reads=(0,), writes=(1,)), Operation("b", reads=(1,), writes=(2,))]
    assert peak_memory(graph_of(operations, [10, 1, 1, 99], [0, 3], [0, 2])).peak == 12
    assert peak_memory(graph_of(operations, [10, 1, 1, 99], [0, 3], [0, 2, 3])).peak == 12 + 99
    assert live_storages(graph_of(operations, [10, 1, 1, 99], [0, 3], [2]), done=0b1, running=1) == (1, 2)


def test_a_graph_without_operations_is_refused() -> None:
    with pytest.raises(ValueError, match="without operations"):
        peak_memory(graph_of([], [1], [0], [0]))


def test_a_chain_needs_as_much_as_its_largest_step() -> None:
    """Equation (2) of the paper: without branches M(G) is the largest sum of inputs and outputs."""
    chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(36, 7))
    graph = trace(chain, (8, 8))
    steps = [sum(graph.storages[k].bytes for k in {*op.reads, *op.writes}) for op in graph.operations]
    assert peak_memory(graph).peak == max(steps) == 4 * (3 * 64 + 8 * 36)


def test_a_residual_holds_its_input_until_the_addition() -> None:
    class Residual(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(x, 2)
            return x + F.avg_pool2d(F.pad(x, (2, 2, 2, 2)), 5, stride=1)

    graph = trace(Residual(), (8, 8))
    image, small, padded = (4 * 3 * side * side for side in (8, 4, 8))
    assert peak_memory(graph).peak == small + padded + small
    assert peak_memory(graph).peak > image + small


CLASSIFIER: dict[Task, str] = {"classification": "classifier"}
MODELS: list[tuple[str, dict[Task, str], int]] = [
    ("mobilenet_v2", {"detection": "ssdlite"}, 320),
    ("mobilenet_v2", {"classification": "classifier", "detection": "ssdlite", "segmentation": "deeplab_v3"}, 320),
    ("vgg16", {"detection": "ssd512"}, 512),
    *((backbone, CLASSIFIER, 224) for backbone in list_backbones()),
]


def model_graph(backbone: str, heads: dict[Task, str], size: int) -> Graph:
    spec = ModelSpec(
        backbone={"name": backbone},
        heads={task: {"name": head} for task, head in heads.items()},
        class_names={task: tuple(map(str, range(20))) for task in heads},
        input=Preprocess((size, size)),
    )
    return trace(build_on_meta(spec), (size, size))


@pytest.mark.parametrize(("backbone", "heads", "size"), MODELS)
def test_every_network_has_a_best_order_and_contractions_never_need_more(
    backbone: str, heads: dict[Task, str], size: int
) -> None:
    graph = model_graph(backbone, heads, size)
    folded = fold_norms(graph)
    contracted = in_place_activations(folded)
    plan = peak_memory(contracted)
    check(contracted, plan)
    as_traced = range(len(contracted.operations))
    assert plan.peak <= max(bytes_at(contracted, as_traced[:step], step) for step in as_traced)
    assert plan.peak <= peak_memory(folded).peak <= peak_memory(graph).peak


def test_mobilenet_v2_needs_two_wide_maps_of_its_second_block() -> None:
    """At 224 pixels in 32 bits: 96 channels at 112 x 112 twice, or at 112 and 56 if ReLU6 works in place."""
    graph = model_graph("mobilenet_v2", CLASSIFIER, 224)
    wide, filtered = 4 * 96 * 112 * 112, 4 * 96 * 56 * 56
    for contracted, peak, module in [
        (graph, 2 * wide, "backbone.layers.layer_3.expand.norm"),
        (fold_norms(graph), 2 * wide, "backbone.layers.layer_3.expand.act"),
        (in_place_activations(fold_norms(graph)), wide + filtered, "backbone.layers.layer_3.depthwise.conv"),
    ]:
        plan = peak_memory(contracted)
        assert plan.peak == peak
        assert contracted.operations[plan.order[plan.step]].module == module
        assert sorted(contracted.storages[k].bytes for k in plan.live) == sorted([wide, peak - wide])


def test_ten_parallel_branches_are_searched_quickly() -> None:
    """As in a cell of NASNet; there are far too many orders to try them all."""

    class Cell(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            before, x = F.avg_pool2d(x, 2), F.avg_pool2d(x, 2)
            pieces = []
            for k in range(10):
                y = F.pad(before if k % 2 else x, (k, k, k, k)).relu()
                pieces.append(F.avg_pool2d(y, 2 * k + 1, stride=1).sigmoid().mean(dim=1, keepdim=True))
            return torch.cat(pieces, dim=1)

    graph = trace(Cell(), (32, 32))
    plan = peak_memory(graph)
    check(graph, plan)
    # The branch that needs most goes first, before the others hold anything: its 34 x 34 map twice.
    image, half, padded = (4 * 3 * side * side for side in (32, 16, 34))
    assert plan.peak == 2 * half + 2 * padded
    assert image + half < plan.peak


def test_memory_grows_with_the_batch() -> None:
    backbone = create_backbone("mobilenet_v2", width=0.35)
    one, three = (peak_memory(trace(backbone, (64, 64), batch=batch)).peak for batch in (1, 3))
    assert three == 3 * one
