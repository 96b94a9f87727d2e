"""How many bytes of tensors are alive at once: measured on what really runs, not on what was planned."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of every tensor that is made within ``with LiveBytes(...) as live:``, until nobody holds it.

    Memory counts once, however many views there are of it. What a kernel allocates for itself while it runs is not
    seen, nor is anything that was there before, but for ``held``.

    Args:
        held: Tensors that are there already and count from the start, such as the input.

    Attributes:
        now: Bytes alive at the moment.
        peak: The most that were alive at once.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        # The weak references must live as long as what they watch.
        self._watched: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._watch(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # An operator that changes a parameter or an input gives it back: nothing new is made.
        if not func._schema.is_mutable:
            # What a batch norm gives beside its result is empty in evaluation, though not on the meta device.
            for tensor in _tensors(result[:1] if "batch_norm" in func.name() else result):
                self._watch(tensor, but=[*_tensors(args)])
        return result

    def _watch(self, tensor: Tensor, but: Iterable[Tensor] = ()) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watched or any(other.untyped_storage()._cdata == key for other in but):
            return
        size = storage.nbytes()

        def forget(_: object) -> None:
            del self._watched[key]
            self.now -= size

        self._watched[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
