"""Replaces strides by dilation, so that a network keeps a map of stride 8 or 16."""


class Strides:
    """Returns stride and dilation of each layer of a network, one after the other (DeepLabv3, section 3.1).

    A layer that would exceed the output stride runs at stride 1 with the current dilation. The layers *after* it get a
    larger dilation instead, so that the maps equal those of the strided network.

    Args:
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32.
        reached: Input pixels per step of the first layer's input.

    Attributes:
        reached: Input pixels per step so far.
    """

    def __init__(self, output_stride: int, reached: int) -> None:
        self.reached = reached
        self._output_stride = output_stride
        self._dilation = 1

    def take(self, stride: int) -> tuple[int, int]:
        """Returns stride and dilation of the next layer, whose stride in the strided network is ``stride``."""
        dilation = self._dilation
        if self.reached * stride > self._output_stride:
            self._dilation *= stride
            return 1, dilation
        self.reached *= stride
        return stride, dilation
