"""Servers for tests: the application in this process, and the command in a process of its own."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aiohttp import web

from mbv2kit.inference.loading import Request, load
from mbv2kit.serving.app import make_app
from mbv2kit.serving.batching import Batcher
from mbv2kit.serving.gate import Gate
from mbv2kit.serving.host import Host, Hosted
from mbv2kit.serving.metrics import Metrics
from mbv2kit.serving.model import Job, ServedModel
from mbv2kit.serving.uploads import Uploads

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Here:
    """A server in this process.

    Attributes:
        port: Where it listens.
        gate: What requests pass.
        batcher: The queue of its model.
        batches: The number of images in each batch.
        may_run: Workers wait for it.
    """

    port: int
    gate: Gate
    batcher: Batcher[Job, Any]
    batches: list[int]
    may_run: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def here(
    folder: Path,
    *,
    blocked: bool = False,
    queue: int = 8,
    uploads: int = 8,
    max_upload: int = 100_000,
    seconds: float = 30.0,
    batch_size: int = 1,
    wait: float = 0.0,
    idle: float = 30.0,
) -> AsyncIterator[Here]:
    """Serves a model until the block ends; ``blocked`` workers wait until ``may_run`` is set."""
    request = Request(checkpoint=str(folder), runtime="onnxruntime", threads=1)
    loaded = load(request)
    model = ServedModel("default", loaded, loaded.predictor, workers=1, min_score=0.05)
    may_run, metrics, batches = threading.Event(), Metrics(), list[int]()
    if not blocked:
        may_run.set()

    def work(jobs: Sequence[Job]) -> list[Any]:
        may_run.wait()
        return model.workers[0](jobs)

    gate = Gate(metrics, seconds)
    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher[Job, Any]([work], pool, most=batch_size, wait=wait, room=queue, count=batches.append)
        async with batcher:
            metrics.watch_queue("default", batcher.__len__)
            host = Host({"default": Hosted(model, batcher)})
            received = Uploads(most=uploads, size=max_upload, seconds=seconds)
            app = make_app(host, gate, metrics, received, max_upload=max_upload, draw_min_score=0.4)
            runner = web.AppRunner(app, handler_cancellation=True, keepalive_timeout=idle, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                yield Here(runner.addresses[0][1], gate, batcher, batches, may_run)
            finally:
                may_run.set()
                await runner.cleanup()


async def until(holds: Any) -> None:
    """Waits until a condition holds, and fails after a minute."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


@dataclass(frozen=True)
class Process:
    """``tools/serve.py`` in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int
    lines: Sequence[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[Process]:
    """Runs the command from a folder, at a free port, and kills it in the end if it still runs."""
    environment = os.environ | {"MBV2KIT_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "serve.py"), "port=0", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = list(_until_served(process.stdout))
        assert "Serving on " in lines[-1], lines
        yield Process(process, int(lines[-1].partition(" (")[0].rpartition(":")[2]), lines)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _until_served(output: IO[str]) -> Iterator[str]:
    for line in output:
        yield line
        if line.startswith("Serving on "):
            return
