"""A network as a graph: the operations that one forward pass really runs, and the memory that each reads and writes.

The pass runs on torch's meta device: shapes are worked out, nothing is computed and nothing is allocated.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mbv2kit.errors import UserError, one_line
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel, copy_to_meta

META = torch.device("meta")
Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Storage:
    """The memory of one activation; all views of a tensor share it.

    Attributes:
        shape: Of the tensor that was written there first.
        elements: Number of values that it holds.
        bytes: Its size.
    """

    shape: Shape
    elements: int
    bytes: int


class Convolution(NamedTuple):
    """How a convolution moves over its input, for each side of the map."""

    stride: Shape
    padding: Shape
    dilation: Shape
    transposed: bool
    groups: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of the forward pass.

    Attributes:
        name: Of torch's operator without its namespace, such as ``convolution`` or ``hardtanh``; a batch normalization
            by running statistics is called ``batch_norm`` whatever operator runs it.
        module: Path of the innermost module that was running; empty for the model itself.
        reads: Indices of the storages that it reads.
        writes: Indices of the storages that it writes; one that it also reads is changed in place.
        overwritable: Those of ``reads`` into which it could write its result: it reads them value by value, and they
            have the result's shape, type and layout.
        shapes: Of all its tensor arguments in their order, parameters among them.
        output_shape: Of its first result.
        parameters: Names of the parameters that it reads.
        convolution: Stride and the like, where it is one.
        norm: The batch normalization that :func:`~mbv2kit.analysis.contractions.fold_norms` made a part of it.
        internal_bytes: Memory that it needs for itself while it runs, ``size`` in Section 5.1; a trace knows of none.
    """

    name: str
    module: str = ""
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    overwritable: tuple[int, ...] = ()
    shapes: tuple[Shape, ...] = ()
    output_shape: Shape = ()
    parameters: tuple[str, ...] = ()
    convolution: Convolution | None = None
    norm: "Operation | None" = None
    internal_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Graph:
    """What a network does to one batch.

    Parameters, buffers and all that is worked out from them alone, such as anchors, are constants: they are no storages
    and what makes them is no operation.

    Attributes:
        operations: In an order in which they can run; see :func:`dependencies` for the others.
        storages: What the operations' indices mean. After a contraction some are used no more.
        inputs: Storages that are there at the start.
        outputs: Storages that must be there at the end.
        parameters: Number of elements of every parameter of the model, used or not, by its name.
    """

    operations: tuple[Operation, ...]
    storages: tuple[Storage, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: Mapping[str, int]


def build_on_meta(spec: ModelSpec) -> VisionModel:
    """Builds a model that has shapes but no weights, in evaluation mode.

    Raises:
        UserError: A name or an argument in the spec is wrong.
    """
    with META:
        return VisionModel(spec).eval()


def trace(model: nn.Module, size: tuple[int, int], batch: int = 1) -> Graph:
    """Records what a model does in evaluation mode; the model itself is left as it is.

    Args:
        model: On any device. A ``VisionModel`` is given ``(batch, 3, *size)`` uint8, any other module
            floats of that shape, in the type of its first parameter.
        size: Height and width of the input.
        batch: Number of images.

    Raises:
        UserError: The model cannot run on such an input.
    """
    network = copy_to_meta(model).eval()
    floats = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    images = torch.empty(batch, 3, *size, dtype=torch.uint8 if isinstance(model, VisionModel) else floats, device=META)
    recorder = _Recorder(network, images)
    try:
        with torch.no_grad(), META, recorder:
            result = network(images)
    except RuntimeError as error:
        reason = one_line(error)
        raise UserError(f"The network cannot run on an input of {size[0]} x {size[1]} pixels: {reason}") from error
    return recorder.graph(result)


def dependencies(graph: Graph) -> tuple[int, ...]:
    """Returns for each operation which others must come before it, bit i for operation i; only the nearest are named.

    Who reads a storage comes behind who wrote it, and who writes it anew behind all who read or wrote the old values.
    """
    writer: dict[int, int] = {}
    readers: dict[int, int] = {}
    result = []
    for position, operation in enumerate(graph.operations):
        needed = 0
        for index in operation.reads:
            needed |= writer.get(index, 0)
            readers[index] = readers.get(index, 0) | 1 << position
        for index in operation.writes:
            needed |= writer.get(index, 0) | readers.get(index, 0)
            writer[index], readers[index] = 1 << position, 0
        result.append(needed & ~(1 << position))
    return tuple(result)


def ancestors(graph: Graph) -> tuple[int, ...]:
    """Returns for each operation all that come before it in every order, bit i for operation i."""
    result: list[int] = []
    for direct in dependencies(graph):
        result.append(direct)
        for earlier in bits(direct):
            result[-1] |= result[earlier]
    return tuple(result)


def bits(mask: int) -> Iterator[int]:
    """Returns the positions of the ones in ``mask``, from the lowest."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def users(graph: Graph) -> list[list[int]]:
    """Returns for each storage the operations that read or write it, in order."""
    result: list[list[int]] = [[] for _ in graph.storages]
    for position, operation in enumerate(graph.operations):
        for index in {*operation.reads, *operation.writes}:
            result[index].append(position)
    return result


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that torch runs for ``network`` on ``images``, views among them."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network = network
        self.operations: list[Operation] = []
        self.storages: list[Storage] = []
        self.running = [""]
        self.indices: dict[int, int] = {}
        self.inputs = (self._index(images),)
        # Of every constant the parameters that it was made from.
        self.constants: dict[int, tuple[str, ...]] = {_key(p): (name,) for name, p in network.named_parameters()}
        # A storage is known by its address, which another one could get if it were given back.
        self.alive: list[Tensor] = [images]
        for name, module in network.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        arguments, results = list(_tensors([args, kwargs])), list(_tensors(result))
        self.alive += results
        keys = [_key(argument) for argument in arguments]
        reads = _unique(self.indices[key] for key in keys if key in self.indices)
        parameters = _unique(name for key in keys for name in self.constants.get(key, ()))
        if not reads:
            self.constants.update({_key(value): parameters for value in results if _key(value) not in self.constants})
            return result
        changes = func._schema.is_mutable
        written = [value for value in results if changes or _key(value) not in keys]
        if written:
            name = str(func.overloadpacket).removeprefix("aten.")
            value_by_value = torch.Tag.pointwise in func.tags and not changes
            other = {_key(argument) for argument in arguments if _layout(argument) != _layout(written[0])}
            overwritable = [key for key in keys if key in self.indices and key not in other] if value_by_value else []
            self.operations.append(
                Operation(
                    name="batch_norm" if "batch_norm" in name and not args[5] else name,
                    module=self.running[-1],
                    reads=reads,
                    writes=_unique(self._index(value) for value in written),
                    overwritable=_unique(self.indices[key] for key in overwritable),
                    shapes=tuple(tuple(argument.shape) for argument in arguments),
                    output_shape=tuple(written[0].shape),
                    parameters=parameters,
                    convolution=_convolution(args) if name == "convolution" else None,
                )
            )
        return result

    def graph(self, result: Any) -> Graph:
        """What was recorded, if ``result`` is what the network returned."""
        outputs = _unique(self.indices[_key(value)] for value in _tensors(result) if _key(value) in self.indices)
        needed = {*outputs, *(index for operation in self.operations for index in operation.reads)}
        operations = []
        for operation in self.operations:
            # By-products that nobody reads, such as the places of the maxima in max pooling, are a matter of torch.
            used = tuple(index for index in operation.writes if index in needed)
            operations.append(replace(operation, writes=used or operation.writes[:1]))
        parameters = {name: parameter.numel() for name, parameter in self.network.named_parameters()}
        return Graph(tuple(operations), tuple(self.storages), self.inputs, outputs, parameters)

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.running.append(name)

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self.running.pop()

    def _index(self, tensor: Tensor) -> int:
        key = _key(tensor)
        if key not in self.indices:
            self.indices[key] = len(self.storages)
            size = tensor.untyped_storage().nbytes()
            self.storages.append(Storage(tuple(tensor.shape), size // tensor.itemsize, size))
        return self.indices[key]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.untyped_storage().nbytes()


def _convolution(args: Sequence[Any]) -> Convolution:
    stride, padding, dilation, transposed, _, groups = args[3:9]
    return Convolution(tuple(stride), tuple(padding), tuple(dilation), transposed, groups)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
