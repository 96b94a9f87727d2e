"""Maps the output rows of a convolution to the input rows that they depend on."""

from dataclasses import dataclass
from functools import cached_property

from mbv2kit.nn.layers import Conv2d


# Plans read the properties a hundred thousand times, so each is computed once.
@dataclass(frozen=True)
class Window:
    """A convolution along one dimension, here called rows.

    Attributes:
        size: Rows of the input.
        kernel: Size of the kernel.
        stride: Input rows from one output row to the next.
        dilation: Input rows from one value of the kernel to the next.
        before: Rows of zeros before the input.
        after: Rows of zeros after the input.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @classmethod
    def of(cls, conv: Conv2d, size: int) -> "Window":
        """Returns the window of a square convolution over an input of ``size`` rows."""
        before, after = conv.pads(size)
        return cls(size, conv.kernel_size[0], conv.stride[0], conv.dilation[0], before, after)

    @cached_property
    def reach(self) -> int:
        """Rows from the first value under the kernel to the last."""
        return self.dilation * (self.kernel - 1)

    @cached_property
    def output(self) -> int:
        """Rows of the output."""
        return (self.size + self.before + self.after - self.reach - 1) // self.stride + 1

    def padded(self, rows: range) -> range:
        """Returns the input rows that the output's ``rows`` depend on, including padding."""
        return range(
            rows.start * self.stride - self.before, (rows.stop - 1) * self.stride - self.before + self.reach + 1
        )

    def needed(self, rows: range) -> range:
        """Returns the input rows that the output's ``rows`` depend on."""
        padded = self.padded(rows)
        return range(max(0, padded.start), min(self.size, padded.stop))

    def padding(self, rows: range) -> tuple[int, int]:
        """Returns how many rows of padding before and after the input the output's ``rows`` cover."""
        padded, needed = self.padded(rows), self.needed(rows)
        return needed.start - padded.start, padded.stop - needed.stop
