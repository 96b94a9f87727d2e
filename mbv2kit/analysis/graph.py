"""Traces a network as a graph: the operations of one forward pass, and the memory that each reads and writes.

The pass runs on torch's meta device, which only computes shapes and allocates nothing.
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
from mbv2kit.nn.tensors import storage_id, tensors_in

META = torch.device("meta")
Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory of one activation, shared by all views of a tensor.

    Attributes:
        shape: Shape of the tensor first written there.
        elements: Number of values.
        bytes: Size in bytes.
    """

    shape: Shape
    elements: int
    bytes: int


class Convolution(NamedTuple):
    """Options of a convolution, for each dimension of the map."""

    stride: Shape
    padding: Shape
    dilation: Shape
    transposed: bool
    groups: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of the forward pass.

    Attributes:
        name: Name of torch's operator without namespace, such as ``convolution`` or ``hardtanh``; ``batch_norm`` for
            any batch normalization by running statistics.
        module: Path of the innermost running module; empty for the model itself.
        reads: Indices of the storages that it reads.
        writes: Indices of the storages that it writes; one that it also reads is changed in place.
        overwritable: The ``reads`` that could hold its result: it reads them elementwise, and they have the result's
            shape, type and layout.
        shapes: Shapes of all tensor arguments in order, including parameters.
        output_shape: Shape of the first result.
        parameters: Names of the parameters that it reads.
        convolution: Options of a convolution; None for other operations.
        norm: Batch normalization that :func:`~mbv2kit.analysis.contractions.fold_norms` folded into it.
        internal_bytes: Workspace, ``size`` in Section 5.1; 0 in traced graphs.
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
    """Operations of a network on one batch.

    Parameters, buffers and everything computed from them alone, such as anchors, are constants: the graph contains
    neither their storages nor the operations that make them.

    Attributes:
        operations: Operations in a valid order; see :func:`dependencies` for others.
        storages: Storages by index; contractions may leave some unused.
        inputs: Storages that exist at the start.
        outputs: Storages that must exist at the end.
        parameters: Number of elements of every parameter of the model, used or not, by name.
    """

    operations: tuple[Operation, ...]
    storages: tuple[Storage, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: Mapping[str, int]


def build_on_meta(spec: ModelSpec) -> VisionModel:
    """Builds a model on the meta device, without weights, in evaluation mode.

    Raises:
        UserError: A name or an argument in the spec is invalid.
    """
    with META:
        return VisionModel(spec).eval()


def trace(model: nn.Module, size: tuple[int, int], batch: int = 1) -> Graph:
    """Records the operations of a model in evaluation mode, without changing the model.

    Args:
        model: Model on any device. Its input is ``(batch, 3, *size)``: uint8 for a ``VisionModel``, for other modules
            of the type of their first floating-point parameter.
        size: Height and width of the input.
        batch: Number of images.

    Raises:
        UserError: The model cannot run on an input of this size.
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
    """Returns the direct predecessors of each operation as bit masks, bit i for operation i.

    A reader of a storage comes after its writer; a new writer comes after all readers and the writer of the old values.
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
    """Returns all predecessors of each operation, direct or not, as bit masks."""
    result: list[int] = []
    for direct in dependencies(graph):
        result.append(direct)
        for earlier in bits(direct):
            result[-1] |= result[earlier]
    return tuple(result)


def bits(mask: int) -> Iterator[int]:
    """Yields the positions of the ones in ``mask``, from the lowest."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def users(graph: Graph) -> list[list[int]]:
    """Returns the operations that read or write each storage, in order."""
    result: list[list[int]] = [[] for _ in graph.storages]
    for position, operation in enumerate(graph.operations):
        for index in {*operation.reads, *operation.writes}:
            result[index].append(position)
    return result


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Intercepts every operator, including views, that torch runs for ``network`` on ``images``."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network = network
        self.operations: list[Operation] = []
        self.storages: list[Storage] = []
        self.running = [""]
        self.indices: dict[int, int] = {}
        self.inputs = (self._index(images),)
        # The parameters that each constant was computed from.
        self.constants: dict[int, tuple[str, ...]] = {storage_id(p): (name,) for name, p in network.named_parameters()}
        # Keeps all tensors alive, so that no new storage gets the id of a freed one.
        self.alive: list[Tensor] = [images]
        for name, module in network.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        arguments, results = list(tensors_in([args, kwargs])), list(tensors_in(result))
        self.alive += results
        keys = [storage_id(argument) for argument in arguments]
        reads = _unique(self.indices[key] for key in keys if key in self.indices)
        parameters = _unique(name for key in keys for name in self.constants.get(key, ()))
        if not reads:
            self.constants.update(
                {storage_id(value): parameters for value in results if storage_id(value) not in self.constants}
            )
            return result
        changes = func._schema.is_mutable
        written = [value for value in results if changes or storage_id(value) not in keys]
        if written:
            name = str(func.overloadpacket).removeprefix("aten.")
            value_by_value = torch.Tag.pointwise in func.tags and not changes
            other = {storage_id(argument) for argument in arguments if _layout(argument) != _layout(written[0])}
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
        """Returns the recorded graph; ``result`` is what the network returned."""
        outputs = _unique(
            self.indices[storage_id(value)] for value in tensors_in(result) if storage_id(value) in self.indices
        )
        needed = {*outputs, *(index for operation in self.operations for index in operation.reads)}
        operations = []
        for operation in self.operations:
            # Leaves out by-products of torch that nothing reads, such as the indices of max pooling.
            used = tuple(index for index in operation.writes if index in needed)
            operations.append(replace(operation, writes=used or operation.writes[:1]))
        parameters = {name: parameter.numel() for name, parameter in self.network.named_parameters()}
        return Graph(tuple(operations), tuple(self.storages), self.inputs, outputs, parameters)

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.running.append(name)

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self.running.pop()

    def _index(self, tensor: Tensor) -> int:
        key = storage_id(tensor)
        if key not in self.indices:
            self.indices[key] = len(self.storages)
            size = tensor.untyped_storage().nbytes()
            self.storages.append(Storage(tuple(tensor.shape), size // tensor.itemsize, size))
        return self.indices[key]


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.untyped_storage().nbytes()


def _convolution(args: Sequence[Any]) -> Convolution:
    stride, padding, dilation, transposed, _, groups = args[3:9]
    return Convolution(tuple(stride), tuple(padding), tuple(dilation), transposed, groups)


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
