from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mbv2kit.analysis.contractions import fold_norms, in_place_activations
from mbv2kit.analysis.graph import Graph, Operation, ancestors, build_on_meta, dependencies, trace
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, InvertedResidual

HEADS: dict[str, dict[str, Any]] = {
    "classification": {"name": "classifier"},
    "detection": {"name": "ssdlite"},
    "segmentation": {"name": "deeplab_v3", "aspp": True},
}
SPEC = ModelSpec(
    backbone={"name": "mobilenet_v2", "width": 0.35},
    heads=HEADS,
    class_names=dict.fromkeys(HEADS, ("cat", "dog")),
    input=Preprocess((64, 96)),
)


class Function(nn.Module):
    """A network that is one function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Everything(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the devices on which torch creates tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else [result]:
            if isinstance(value, Tensor):
                self.devices.add(value.device.type)
        return result


def trace_function(function: Callable[[Tensor], Any], side: int = 4) -> Graph:
    return trace(Function(function), (side, side))


def steps(graph: Graph) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return [(operation.name, operation.reads, operation.writes) for operation in graph.operations]


def test_operations_list_what_they_read_and_write() -> None:
    graph = trace_function(lambda x: torch.cat([x.relu(), x.sigmoid()], dim=1) * 2)
    (image, rectified, squashed, joined, result) = range(5)
    assert steps(graph) == [
        ("relu", (image,), (rectified,)),
        ("sigmoid", (image,), (squashed,)),
        ("cat", (rectified, squashed), (joined,)),
        ("mul", (joined,), (result,)),
    ]
    assert (graph.inputs, graph.outputs) == ((image,), (result,))
    assert [storage.bytes for storage in graph.storages] == [192, 192, 192, 384, 384]
    assert [storage.elements for storage in graph.storages] == [48, 48, 48, 96, 96]
    assert graph.storages[joined].shape == (1, 6, 4, 4)


def test_views_are_neither_operations_nor_memory() -> None:
    graph = trace_function(lambda x: x.permute(0, 2, 3, 1)[:, :2].expand(5, -1, -1, -1).unbind(0)[3].relu())
    assert steps(graph) == [("relu", (0,), (1,))]
    copied = trace_function(lambda x: x.permute(0, 2, 3, 1).reshape(-1).relu())
    assert [name for name, *_ in steps(copied)] == ["clone", "relu"]


def test_in_place_operations_write_what_they_read() -> None:
    graph = trace_function(lambda x: F.relu_(x + 1))
    assert steps(graph) == [("add", (0,), (1,)), ("relu_", (1,), (1,))]

    def fill(x: Tensor) -> Tensor:
        canvas = torch.zeros(1, 6, 4, 4)
        canvas[:, :3] = x
        canvas[:, 3:] = x.relu()
        return canvas

    canvas, rectified = 1, 2
    assert steps(trace_function(fill)) == [
        ("copy_", (0,), (canvas,)),
        ("relu", (0,), (rectified,)),
        ("copy_", (canvas, rectified), (canvas,)),
    ]


def test_constants_are_not_activations() -> None:
    grid = torch.ones(4)
    weight = nn.Parameter(torch.ones(4))

    class Scaled(nn.Module):
        grid: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight = weight
            self.register_buffer("grid", grid)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            shift = (torch.arange(4) / 3 + self.grid).sqrt()
            return x * self.weight[:, None].softmax(dim=0) + shift, shift

    graph = trace(Scaled(), (4, 4))
    assert [(operation.name, operation.parameters) for operation in graph.operations] == [
        ("mul", ("weight",)),
        ("add", ()),
    ]
    assert len(graph.storages) == 3
    assert graph.outputs == (2,)


def test_unused_by_products_are_left_out() -> None:
    pooled = trace_function(lambda x: F.max_pool2d(x, 2))
    assert steps(pooled) == [("max_pool2d_with_indices", (0,), (1,))]
    both = trace_function(lambda x: F.max_pool2d(x, 2, return_indices=True))
    assert steps(both) == [("max_pool2d_with_indices", (0,), (1, 2))]
    assert [both.storages[index].bytes for index in both.outputs] == [3 * 4 * 4, 3 * 4 * 8]


def test_an_unused_result_is_kept() -> None:
    def forward(x: Tensor) -> Tensor:
        x.relu()
        return x + 1

    assert steps(trace_function(forward)) == [("relu", (0,), (1,)), ("add", (0,), (2,))]


def test_a_vision_model_gets_uint8_and_other_modules_floats_of_their_type() -> None:
    image = trace(build_on_meta(SPEC), (64, 96), batch=2).storages[0]
    assert (image.shape, image.bytes) == ((2, 3, 64, 96), 2 * 3 * 64 * 96)
    assert trace(nn.Conv2d(3, 4, 1).half(), (8, 8)).storages[0].bytes == 2 * 3 * 64
    assert trace(nn.ReLU(), (8, 8)).storages[0].bytes == 4 * 3 * 64


def test_operations_know_their_module_and_a_shared_one_runs_twice() -> None:
    block = ConvNormAct(3, 3, 3, style=ConvStyle())
    graph = trace(nn.Sequential(block, nn.Sequential(block, nn.ReLU())), (8, 8))
    once = [("convolution", "0.conv"), ("batch_norm", "0.norm"), ("hardtanh", "0.act")]
    assert [(op.name, op.module) for op in graph.operations] == [*once, *once, ("relu", "1.1")]
    assert graph.operations[0].parameters == graph.operations[3].parameters == ("0.conv.weight",)
    assert graph.parameters == {"0.conv.weight": 81, "0.norm.weight": 3, "0.norm.bias": 3}
    assert [op.module for op in trace_function(lambda x: x.relu()).operations] == [""]


def test_a_convolution_has_its_options() -> None:
    graph = trace(nn.Conv2d(3, 6, (3, 1), stride=(2, 1), padding=(4, 0), dilation=(4, 1), groups=3), (8, 8))
    (operation,) = graph.operations
    assert operation.convolution == ((2, 1), (4, 0), (4, 1), False, 3)
    assert operation.shapes == ((1, 3, 8, 8), (6, 1, 3, 1), (6,))
    assert operation.output_shape == (1, 6, 4, 8)


def test_tracing_allocates_nothing_and_does_not_change_the_model() -> None:
    model = VisionModel(SPEC).train()
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    with Everything() as seen:
        trace(model, (64, 96))
    assert seen.devices == {"meta"}
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is value and value.equal(copy) for name, (value, copy) in before.items())


def test_models_with_and_without_weights_have_the_same_graph() -> None:
    with Everything() as seen:
        model = build_on_meta(SPEC)
    assert seen.devices == {"meta"}
    assert trace(model, (64, 96)) == trace(VisionModel(SPEC), (64, 96))


def test_dilation_by_phases_is_not_traced() -> None:
    block = InvertedResidual(8, 8, expansion=6, dilation=2, style=ConvStyle()).train()
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), block), (32, 32))
    dilations = [op.convolution.dilation for op in graph.operations if op.convolution is not None]
    assert dilations == [(1, 1), (1, 1), (2, 2), (1, 1)]


def test_a_norm_is_folded_into_its_convolution() -> None:
    graph = trace(nn.Sequential(ConvNormAct(3, 8, 3, style=ConvStyle()), nn.BatchNorm2d(8)), (8, 8))
    folded = fold_norms(graph)
    assert [op.name for op in folded.operations] == ["convolution", "hardtanh", "batch_norm"]
    convolution, norm = folded.operations[0], graph.operations[1]
    assert convolution.norm == norm
    assert (convolution.reads, convolution.writes) == ((0,), norm.writes)
    assert fold_norms(folded) == folded


@pytest.mark.parametrize(
    "function",
    [
        lambda conv, norm, x: (conv(x), norm(conv(x)))[0],
        lambda conv, norm, x: torch.stack([y := conv(x), norm(y)]),
        lambda conv, norm, x: (y := conv(x), norm(y)),
        lambda conv, norm, x: norm(F.relu_(conv(x))),
        lambda conv, norm, x: norm(x),
        lambda conv, norm, x: conv(norm(x)),
        lambda conv, norm, x: F.instance_norm(conv(x), weight=norm.weight, bias=norm.bias),
    ],
    ids=["unused", "read twice", "returned", "behind relu", "alone", "in front", "of its own batch"],
)
def test_a_norm_without_a_convolution_of_its_own_stays(function: Callable[..., Any], request: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Any:
            return function(self.conv, self.norm, x)

    graph = trace(Net(), (8, 8))
    folds = request.node.callspec.id == "unused"
    assert len(fold_norms(graph).operations) == len(graph.operations) - folds


def in_place(function: Callable[[Tensor], Any]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return steps(in_place_activations(trace_function(function)))


def test_an_activation_overwrites_its_input() -> None:
    image, first, second = 0, 1, 3
    assert in_place(lambda x: F.hardtanh(F.avg_pool2d(x, 1)).relu() + 1) == [
        ("avg_pool2d", (image,), (first,)),
        ("hardtanh", (first,), (first,)),
        ("relu", (first,), (first,)),
        ("add", (first,), (first,)),
    ]

    def residual(x: Tensor) -> Tensor:
        bottleneck = F.avg_pool2d(x, 1)
        return bottleneck + F.avg_pool2d(bottleneck.relu(), 1)

    assert in_place(residual) == [
        ("avg_pool2d", (image,), (first,)),
        # The addition still needs it, and may overwrite it.
        ("relu", (first,), (2,)),
        ("avg_pool2d", (2,), (second,)),
        ("add", (first, second), (first,)),
    ]


@pytest.mark.parametrize(
    ("function", "index"),
    [
        (lambda x: x.relu(), 1),
        (lambda x: (y := F.avg_pool2d(x, 1), y.relu()), 2),
        (lambda x: F.avg_pool2d(x, 1).double(), 2),
        (lambda x: F.avg_pool2d(x, 4) + torch.ones(1, 3, 4, 4), 2),
        (lambda x: (y := F.avg_pool2d(x, 1)) + y.transpose(2, 3), 2),
        (lambda x: F.avg_pool2d(x, 1).permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format), 2),
        (lambda x: F.avg_pool2d(x, 1)[:, :2].relu(), 2),
        (lambda x: torch.cat([(y := F.avg_pool2d(x, 1)).relu(), F.avg_pool2d(y, 1)]), 2),
    ],
    ids=["input", "output", "type", "smaller", "transposed", "layout", "part", "needed elsewhere"],
)
def test_what_is_needed_later_is_not_overwritten(function: Callable[[Tensor], Any], index: int) -> None:
    written = [operation for operation in in_place(function) if index in operation[2]]
    assert len(written) == 1
    assert index not in written[0][1]


def test_in_place_activations_never_need_more_memory() -> None:
    graph = fold_norms(trace(build_on_meta(SPEC), (64, 96)))
    contracted = in_place_activations(graph)
    assert ancestors(contracted) == ancestors(graph)
    assert in_place_activations(contracted) == contracted
    names = [op.name for op in contracted.operations if set(op.writes) & set(op.reads)]
    assert set(names) == {"sub", "div", "hardtanh", "relu", "add"}
    assert names.count("add") == 10


def test_writers_come_after_readers_and_readers_after_writers() -> None:
    a, b = 0, 1
    operations = (
        Operation("make", reads=(a,), writes=(b,)),
        Operation("look", reads=(b,), writes=()),
        Operation("look", reads=(b,), writes=()),
        Operation("change", reads=(b,), writes=(b,)),
        Operation("look", reads=(b,), writes=()),
        Operation("make", reads=(a,), writes=()),
    )
    graph = Graph(operations, (), (a,), (b,), {})
    assert ancestors(graph) == (0, 0b1, 0b1, 0b111, 0b1111, 0)
    assert dependencies(graph)[4] == 0b1000


def test_an_input_that_a_network_cannot_take_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot run on an input of 2 x 8 pixels: .*([Kk]ernel|negative dimension)"):
        trace(nn.Conv2d(3, 4, 5), (2, 8))
