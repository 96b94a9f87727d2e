"""Helpers to query and edit an ONNX graph."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper


class Graph:
    """An ONNX graph with its constants and nodes by name; every change is made in the graph itself.

    Args:
        proto: The graph, whose nodes are in the order in which they run.
    """

    def __init__(self, proto: GraphProto) -> None:
        self.proto = proto
        self._constants: dict[str, TensorProto] = {each.name: each for each in proto.initializer}

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes, in the order in which they run."""
        return list(self.proto.node)

    def producer(self, tensor: str) -> NodeProto | None:
        """Returns the node that computes a tensor; None for inputs and constants."""
        return next((node for node in self.proto.node if tensor in node.output), None)

    def users(self, tensor: str) -> list[NodeProto]:
        """Returns the nodes that read a tensor."""
        return [node for node in self.proto.node if tensor in node.input]

    def is_constant(self, tensor: str) -> bool:
        """Returns whether a tensor is stored in the file."""
        return tensor in self._constants

    def constant(self, tensor: str) -> NDArray[Any]:
        """Returns the values of a tensor that is stored in the file."""
        return np.asarray(numpy_helper.to_array(self._constants[tensor]))

    def set_constant(self, tensor: str, values: NDArray[Any]) -> str:
        """Stores values under a new or existing name, and returns the name."""
        stored = numpy_helper.from_array(np.ascontiguousarray(values), tensor)
        if tensor in self._constants:
            self._constants[tensor].CopyFrom(stored)
        else:
            self.proto.initializer.append(stored)
            self._constants[tensor] = self.proto.initializer[-1]
        return tensor

    def insert_before(self, node: NodeProto, new: Iterable[NodeProto]) -> None:
        """Inserts new nodes before a node of the graph."""
        place = self.nodes.index(node)
        for i, each in enumerate(new):
            self.proto.node.insert(place + i, each)
        self._forget_shapes()

    def remove(self, nodes: Iterable[NodeProto]) -> None:
        """Removes nodes, and the constants that no other node reads."""
        for node in nodes:
            self.proto.node.remove(node)
        used = {name for node in self.proto.node for name in node.input}
        for constant in list(self.proto.initializer):
            if constant.name not in used:
                self.proto.initializer.remove(constant)
                del self._constants[constant.name]
        self._forget_shapes()

    def _forget_shapes(self) -> None:
        # The shapes of changed tensors would contradict the inferred ones.
        del self.proto.value_info[:]


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Returns an attribute of a node, a number or a list of numbers, or the default if it has none."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def set_attribute(node: NodeProto, name: str, value: list[int]) -> None:
    """Sets an attribute of a node."""
    for each in list(node.attribute):
        if each.name == name:
            node.attribute.remove(each)
    node.attribute.append(helper.make_attribute(name, value))
