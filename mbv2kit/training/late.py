"""Numbers of a step that reach the host while the device computes the next one."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Context = TypeVar("Context")


class LateValues(Generic[Context]):
    """Hands out the values of each step during the next one, so that the host never waits for the device.

    A GPU computes what the host has queued. A host that reads a value at once waits until the queue is empty, and the
    device then waits for the host.

    Args:
        receive: Called with the values of a step and what was sent along.
    """

    def __init__(self, receive: Callable[[list[float], Context], None]) -> None:
        self._receive = receive
        self._sent: tuple[Tensor, torch.cuda.Event | None, Context] | None = None

    def send(self, values: Tensor, context: Context) -> None:
        """Starts to copy the values of a step, and hands out those of the step before.

        Args:
            values: ``(N,)``.
            context: What else :attr:`receive` needs to know of the step.
        """
        copy, done = values.detach(), None
        if copy.is_cuda:
            copy = torch.empty_like(copy, device="cpu", pin_memory=True).copy_(copy, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self.flush()
        self._sent = (copy, done, context)

    def flush(self) -> None:
        """Hands out the values that were sent last, if they were not yet."""
        if self._sent is None:
            return
        (values, done, context), self._sent = self._sent, None
        if done is not None:
            done.synchronize()
        self._receive(values.cpu().numpy().tolist(), context)
