"""Reads TensorFlow's graphs (GraphDef) without TensorFlow: their nodes in order, and the constants among them.

The numbers of fields and types are those of TensorFlow's ``graph.proto``, ``node_def.proto``, ``attr_value.proto``,
``tensor.proto`` and ``types.proto``.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line

_MOST_NODES = 100_000
# Elements of all constants that are computed from others, and of one that repeats a single value.
_MOST_VALUES = 50_000_000

# Types of constants, and the field of a tensor that holds values one by one.
_TYPES: Mapping[int, tuple[Any, str]] = {
    1: (np.float32, "float_val"),
    2: (np.float64, "double_val"),
    3: (np.int32, "int_val"),
    4: (np.uint8, "int_val"),
    6: (np.int8, "int_val"),
    9: (np.int64, "int64_val"),
    10: (np.bool_, "bool_val"),
    19: (np.float16, "half_val"),
}
# Functions of constants, which files have instead of their results.
_FUNCTIONS: Mapping[str, Any] = {
    "Add": np.add,
    "AddV2": np.add,
    "Mul": np.multiply,
    "Neg": np.negative,
    "RealDiv": np.divide,
    "Rsqrt": lambda value: 1 / np.sqrt(value),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
}
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp")
_COPIES = ("Identity", "ReadVariableOp", "Cast", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs")


@dataclass(frozen=True, slots=True)
class Node:
    """An operation of the graph.

    Attributes:
        name: Its name.
        op: Kind of operation.
        inputs: Names of the tensors that it reads: ``node``, or ``node:1`` for another output than the first.
        attributes: What else describes it, as messages.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class GraphFile:
    """The nodes of a file, each behind those that it reads.

    Args:
        path: A frozen graph, ``saved_model.pb``, or the ``.meta`` file of a checkpoint.
        variables: Values of the variables by name, for a graph that is not frozen.

    Attributes:
        nodes: In the order in which they can run.
        constants: Values by the name of the node: those in the file, and those that arithmetic makes of them.

    Raises:
        UserError: The file is damaged, a node reads one that is missing, or nodes wait for each other.
    """

    def __init__(self, path: Path, variables: Mapping[str, NDArray[Any]] | None = None) -> None:
        graph = _parse(path)
        if not 0 < len(graph.node) <= _MOST_NODES:
            raise UserError(f"{path}: its graph has {len(graph.node):,} nodes; networks have up to {_MOST_NODES:,}.")
        by_name = {message.name: _node(message) for message in graph.node}
        self.nodes = list(_in_order(by_name, path))
        self.constants: dict[str, NDArray[Any]] = {}
        self._path = path
        self._variables = variables or {}
        self._computed = 0
        for node in self.nodes:
            self._take(node)

    def _take(self, node: Node) -> None:
        if node.op == "Const":
            value = _constant(node, self._path)
            if value is not None:
                self.constants[node.name] = value
            return
        if node.op in _VARIABLES and node.name in self._variables:
            self.constants[node.name] = self._variables[node.name]
            return
        values = [self.constants[name] for name in node.inputs if name in self.constants]
        if node.op in _COPIES and values:
            self.constants[node.name] = values[0]
        elif node.op in _FUNCTIONS and len(values) == len(node.inputs) > 0:
            self._compute(node, values)

    def _compute(self, node: Node, values: list[NDArray[Any]]) -> None:
        try:
            self._computed += prod(np.broadcast_shapes(*(value.shape for value in values)))
            if self._computed > _MOST_VALUES:
                raise UserError(f"{self._path}: its node '{node.name}' computes more values than any known network.")
            with np.errstate(all="ignore"):
                self.constants[node.name] = _FUNCTIONS[node.op](*values)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self._path}: its node '{node.name}' cannot be computed ({one_line(error)}).") from None


def is_graph(start: bytes) -> bool:
    """Tells whether the first nine bytes of a file may be those of a GraphDef or of a SavedModel.

    A GraphDef begins with a node, whose length takes up to five bytes, and a node with its name. A SavedModel begins
    with its version and a graph.
    """
    after_length = start[1:7].lstrip(bytes(range(128, 256)))[1:2]
    return start[:3] == b"\x08\x01\x12" or (start[:1] == b"\x0a" and after_length == b"\x0a")


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError

    content = path.read_bytes()
    try:
        if path.suffix == ".meta":
            return messages()["MetaGraph"].FromString(content).graph_def
        if content[:1] == b"\x08":
            saved = messages()["SavedModel"].FromString(content)
            if len(saved.meta_graphs) != 1:
                raise UserError(f"{path} holds {len(saved.meta_graphs)} graphs; give a file with one.")
            return saved.meta_graphs[0].graph_def
        return messages()["GraphDef"].FromString(content)
    except DecodeError as error:
        raise UserError(f"{path} is no graph of TensorFlow, or was cut short ({one_line(error)}).") from None


def _node(message: Any) -> Node:
    # ^node only says that one runs before the other.
    inputs = tuple(name.removesuffix(":0") for name in message.input if not name.startswith("^"))
    return Node(message.name, message.op, inputs, {entry.key: entry.value for entry in message.attr})


def _in_order(nodes: Mapping[str, Node], path: Path) -> Iterator[Node]:
    """Yields each node behind those that it reads; the turns of a loop read what the loop itself computes."""
    waiting: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for node in nodes.values():
        before = {name.partition(":")[0] for name in node.inputs}
        if missing := sorted(before - nodes.keys()):
            raise UserError(f"{path}: its node '{node.name}' reads '{missing[0]}', which the file does not hold.")
        before = {name for name in before if not (node.op == "Merge" and nodes[name].op == "NextIteration")}
        waiting[node.name] = len(before)
        for name in before:
            readers.setdefault(name, []).append(node.name)
    ready = deque(name for name, count in waiting.items() if count == 0)
    while ready:
        name = ready.popleft()
        del waiting[name]
        yield nodes[name]
        for reader in readers.get(name, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    if waiting:
        raise UserError(f"{path}: its node '{min(waiting)}' is part of a circle, or reads one.")


def _constant(node: Node, path: Path) -> NDArray[Any] | None:
    """Returns the value of a constant; None if it is of a type that no weights have, such as text."""
    if "value" not in node.attributes:
        raise UserError(f"{path}: its constant '{node.name}' has no value.")
    tensor = node.attributes["value"].tensor
    if tensor.dtype not in _TYPES:
        return None
    kind, values_field = _TYPES[tensor.dtype]
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    if any(side < 0 for side in shape) or len(shape) > 8:
        raise UserError(f"{path}: its constant '{node.name}' has the shape {list(shape)}, which no constant has.")
    count = prod(shape)
    values: NDArray[Any] | None = None
    if len(tensor.tensor_content) == count * np.dtype(kind).itemsize:
        values = np.frombuffer(tensor.tensor_content, np.dtype(kind).newbyteorder("<"))
    elif not tensor.tensor_content and count <= _MOST_VALUES:
        listed = getattr(tensor, values_field)
        if values_field == "half_val":
            # float16 values stand in the file as whole numbers.
            values = np.array([each & 0xFFFF for each in listed], np.uint16).view(np.float16)
        else:
            values = np.array(listed, dtype=np.float64 if values_field == "double_val" else None).astype(kind)
        # The last value stands for all that are left out; without any they are zero.
        values = np.concatenate([values[:count], np.resize(values[-1:], max(0, count - len(values)))]).astype(kind)
    if values is None or len(values) != count:
        raise UserError(
            f"{path}: its constant '{node.name}' does not hold the {list(shape)} values that it should; the file is "
            "damaged."
        )
    values = values.reshape(shape)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


@cache
def messages() -> Mapping[str, Any]:
    """Returns the classes of the messages by name, with the fields that are read; protobuf skips all others."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = {name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}") for name in _SCALARS}
    file = descriptor_pb2.FileDescriptorProto(name="mbv2kit/graph.proto", package="mbv2kit", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        if name == _ONE_OF:
            message.oneof_decl.add(name="value")
        for field, (number, kind, *repeated) in fields.items():
            scalar = kind in types
            message.field.add(
                name=field,
                number=number,
                label=3 if repeated else 1,
                type=types[kind] if scalar else descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
                type_name=None if scalar else f".mbv2kit.{kind}",
                oneof_index=0 if name == _ONE_OF else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mbv2kit.{name}")) for name in _FIELDS}


# The message of which one field is set, if only to false or 0.
_ONE_OF = "Value"
_SCALARS = ("bool", "bytes", "double", "float", "int32", "int64", "string")
# Number and type of each field, and "repeated" for lists. A map is a list of keys and values.
_FIELDS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "Dimension": {"size": (1, "int64")},
    "Shape": {"dim": (2, "Dimension", "repeated"), "unknown_rank": (3, "bool")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "Shape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "float", "repeated"),
        "double_val": (6, "double", "repeated"),
        "int_val": (7, "int32", "repeated"),
        "int64_val": (10, "int64", "repeated"),
        "bool_val": (11, "bool", "repeated"),
        "half_val": (13, "int32", "repeated"),
    },
    "List": {"i": (3, "int64", "repeated")},
    "Value": {
        "list": (1, "List"),
        "s": (2, "bytes"),
        "i": (3, "int64"),
        "f": (4, "float"),
        "b": (5, "bool"),
        "type": (6, "int32"),
        "shape": (7, "Shape"),
        "tensor": (8, "Tensor"),
    },
    "Entry": {"key": (1, "string"), "value": (2, "Value")},
    "NodeDef": {
        "name": (1, "string"),
        "op": (2, "string"),
        "input": (3, "string", "repeated"),
        "attr": (5, "Entry", "repeated"),
    },
    "GraphDef": {"node": (1, "NodeDef", "repeated")},
    "MetaGraph": {"graph_def": (2, "GraphDef")},
    "SavedModel": {"schema_version": (1, "int64"), "meta_graphs": (2, "MetaGraph", "repeated")},
}
