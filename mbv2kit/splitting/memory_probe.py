"""Measures how many bytes of tensors are alive at once while code runs."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mbv2kit.nn.tensors import storage_id, tensors_in


class MemoryProbe(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of every tensor created within ``with MemoryProbe(...) as probe:`` until it is freed.

    Memory that several views share counts once. The workspace of kernels does not count, nor do tensors created
    earlier, except ``held``.

    Args:
        held: Existing tensors that count from the start, such as the input.

    Attributes:
        current: Bytes alive now.
        peak: Most bytes alive at once so far.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current: int = 0
        self.peak: int = 0
        # A weak reference calls back only while it is itself alive.
        self._watched: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._watch(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # An in-place operator returns its argument: no new memory.
        if not func._schema.is_mutable:
            # The statistics that a batch norm also returns are empty in evaluation, except on the meta device.
            for tensor in tensors_in(result[:1] if "batch_norm" in func.name() else result):
                self._watch(tensor, but=[*tensors_in(args)])
        return result

    def _watch(self, tensor: Tensor, but: Iterable[Tensor] = ()) -> None:
        key = storage_id(tensor)
        if key in self._watched or any(storage_id(other) == key for other in but):
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()

        def forget(_: object) -> None:
            del self._watched[key]
            self.current -= size

        self._watched[key] = weakref.ref(storage, forget)
        self.current += size
        self.peak = max(self.peak, self.current)
