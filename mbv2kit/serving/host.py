"""The models of a server, each with its queue."""

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mbv2kit.errors import nearest
from mbv2kit.serving.batching import Batcher
from mbv2kit.serving.errors import RefusedError
from mbv2kit.serving.metrics import Metrics
from mbv2kit.serving.model import VERSION, Job, ServedModel


@dataclass(frozen=True, slots=True)
class Hosted:
    """A model with its queue."""

    model: ServedModel
    batcher: Batcher[Job, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """All models, by name."""

    models: Mapping[str, Hosted]

    def find(self, name: str | None, version: str | None = None) -> Hosted:
        """Returns the model of a name; None is the only one.

        Raises:
            RefusedError: There is no such model or version, or there are several and none is named.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None:
            raise RefusedError(400, f"Several models are served; name one with model=NAME: {', '.join(self.models)}.")
        if name not in self.models:
            raise RefusedError(404, f"There is no model '{name:.80}'.{nearest(name, self.models)}")
        if version not in (None, VERSION):
            raise RefusedError(404, f"The model '{name}' has no version '{version:.80}', only {VERSION}.")
        return self.models[name]


@asynccontextmanager
async def hosted(
    models: Sequence[ServedModel],
    metrics: Metrics,
    *,
    workers: int,
    batch_size: int | None,
    max_wait: float,
    queue: int,
) -> AsyncIterator[Host]:
    """Runs models until the block ends.

    Args:
        models: The models, of different names.
        metrics: Counts their batches.
        workers: Batches that are computed at a time, by all models together.
        batch_size: Images in a batch; None for as many as the network takes, or one where it takes any number.
        max_wait: Milliseconds that a batch waits for more images.
        queue: Images that may wait for each model.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:
        async with AsyncExitStack() as stack:
            host = {}
            for model in models:
                batcher = Batcher(
                    model.workers,
                    pool,
                    most=batch_size or model.batch_size or 1,
                    wait=max_wait / 1000,
                    room=queue,
                    count=metrics.batches.labels(model.name).observe,
                )
                host[model.name] = Hosted(model, await stack.enter_async_context(batcher))
                metrics.watch_queue(model.name, batcher.__len__)
            yield Host(host)
