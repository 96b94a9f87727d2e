"""Follows a network's tensors from layer to layer while a file is read, whatever the format calls its operations."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mbv2kit.heads.multibox import Scores
from mbv2kit.weights.network_graph import IMAGE, Activation, Layer

# What an operation without weights does to the way of a tensor; all others pass it on.
Passing = Literal["add", "join", "relu", "relu6", "merge", "sigmoid", "softmax", "pass"]
_SCORES: dict[Passing, Scores] = {"sigmoid": "sigmoid", "softmax": "softmax"}
_ACTIVATIONS: dict[Passing, Activation] = {"relu": "relu", "relu6": "relu6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Where a tensor comes from.

    Attributes:
        layer: Position of the last layer on the way to it.
        direct: Whether it is that layer's output, with nothing but an activation in between.
        joined: Positions of the layers whose outputs it holds one behind the other; empty if it joins none.
        scores: How its values became scores; None if they did not.
    """

    layer: int
    direct: bool = False
    joined: tuple[int, ...] = ()
    scores: Scores | None = None


@dataclass(slots=True)
class LayerRecorder:
    """The layers found so far, and where each tensor comes from.

    Attributes:
        layers: In the order in which they run.
        shortcuts: Number of additions of two layers' outputs.
        traces: Where tensors come from, by their names or numbers; those that come from no layer have none.
    """

    layers: list[Layer] = field(default_factory=list)
    shortcuts: int = 0
    traces: dict[Hashable, Trace] = field(default_factory=dict)

    def source(self, tensor: Hashable) -> int:
        """Returns the position of the layer that a tensor comes from; that of the image if there is none."""
        return self.traces[tensor].layer if tensor in self.traces else IMAGE

    def add(self, layer: Layer, output: Hashable) -> None:
        """Adds a layer and names its output."""
        self.traces[output] = Trace(layer=len(self.layers), direct=True)
        self.layers.append(layer)

    def change(self, layer: int, **values: object) -> None:
        """Changes fields of a layer."""
        self.layers[layer] = replace(self.layers[layer], **values)  # type: ignore[arg-type]

    def carry(self, kind: Passing, inputs: Sequence[Hashable], output: Hashable) -> None:
        """Follows an operation without weights from its inputs to its output."""
        traces = [self.traces[tensor] for tensor in inputs if tensor in self.traces]
        if not traces:
            return
        trace = traces[0]
        layers = tuple(each.layer for each in traces)
        if kind in _ACTIVATIONS and trace.direct:
            self.change(trace.layer, activation=_ACTIVATIONS[kind])
        elif kind == "join":
            trace = Trace(layer=max(layers), joined=layers)
        elif kind != "merge":
            self.shortcuts += kind == "add" and len(layers) == 2
            trace = replace(trace, layer=max(layers), direct=False, scores=_SCORES.get(kind, trace.scores))
        self.traces[output] = trace
