"""Strides that become dilation: how a classifier's network keeps a map of 8 or 16 input pixels a step."""

from mbv2kit.errors import UserError


def check_output_stride(output_stride: int) -> None:
    """Raises :class:`UserError` unless a backbone can have this output stride."""
    if output_stride not in (8, 16, 32):
        raise UserError(f"output_stride must be 8, 16 or 32, got {output_stride}.")


class Strides:
    """Follows a network layer by layer and says with which stride and dilation each runs (DeepLabv3, section 3.1).

    A layer that would pass the output stride runs at stride 1 with the dilation so far; the layers *behind* it get the
    dilation that makes up for it, so that the maps equal those of the strided network.

    Args:
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32.
        reached: Input pixels per step of what goes into the first layer that is asked about.

    Attributes:
        reached: Input pixels per step so far.

    Raises:
        UserError: The output stride is none of the three.
    """

    def __init__(self, output_stride: int, reached: int) -> None:
        check_output_stride(output_stride)
        self.reached = reached
        self._output_stride = output_stride
        self._dilation = 1

    def take(self, stride: int) -> tuple[int, int]:
        """Returns stride and dilation of the next layer, which has ``stride`` in the strided network."""
        dilation = self._dilation
        if self.reached * stride > self._output_stride:
            self._dilation *= stride
            return 1, dilation
        self.reached *= stride
        return stride, dilation
