"""Which rows of its input a convolution needs for some rows of its output."""

from dataclasses import dataclass

from mbv2kit.nn.layers import Conv2d


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution along one side of the map.

    Attributes:
        size: Steps of the input.
        kernel: Steps of the kernel.
        stride: Steps of the input for each of the output.
        dilation: Steps between two values of the kernel.
        before: Zeros in front of the input.
        after: Zeros behind it.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @classmethod
    def of(cls, conv: Conv2d, size: int) -> "Window":
        """Reads the window of a convolution over an input with ``size`` steps; both sides have the same one."""
        before, after = conv.pads(size)
        return cls(size, conv.kernel_size[0], conv.stride[0], conv.dilation[0], before, after)

    @property
    def reach(self) -> int:
        """Steps from the first value under the kernel to the last."""
        return self.dilation * (self.kernel - 1)

    @property
    def output(self) -> int:
        """Steps of the output."""
        return (self.size + self.before + self.after - self.reach - 1) // self.stride + 1

    def padded(self, rows: range) -> range:
        """Returns the steps that the output's ``rows`` look at, those in the padding among them."""
        return range(
            rows.start * self.stride - self.before, (rows.stop - 1) * self.stride - self.before + self.reach + 1
        )

    def needed(self, rows: range) -> range:
        """Returns the steps of the input that the output's ``rows`` look at."""
        padded = self.padded(rows)
        return range(max(0, padded.start), min(self.size, padded.stop))

    def padding(self, rows: range) -> tuple[int, int]:
        """Returns how many steps of padding the output's ``rows`` look at in front of the input and behind it."""
        padded, needed = self.padded(rows), self.needed(rows)
        return needed.start - padded.start, padded.stop - needed.stop
