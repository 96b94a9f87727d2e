"""The job of ``mbv2kit serve``: loads models, and answers until it is stopped."""

import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import web
from omegaconf import DictConfig

from mbv2kit.errors import UserError, one_line
from mbv2kit.inference.loading import Request, load, with_second
from mbv2kit.inference.pipeline import MOST_WORKERS, count_workers
from mbv2kit.inference.results import check_score
from mbv2kit.models.run_folder import chosen_checkpoint
from mbv2kit.schema import check_value
from mbv2kit.schema.amounts import parse_bytes
from mbv2kit.schema.rules import ModelName
from mbv2kit.serving.app import make_app
from mbv2kit.serving.gate import Gate
from mbv2kit.serving.host import hosted
from mbv2kit.serving.metrics import Metrics
from mbv2kit.serving.model import ServedModel
from mbv2kit.serving.uploads import Uploads
from mbv2kit.texts import shown

# The name of a model that is given without one.
DEFAULT = "default"
# Seconds that a connection may stay open without a request.
_IDLE = 75.0


def serve(config: DictConfig) -> int:
    """Serves models until SIGTERM or Ctrl-C, then answers what it has accepted and returns.

    Args:
        config: As composed from ``conf/serve.yaml``.

    Returns:
        The exit code: 0, or 1 if a request that was accepted had no response within ``stop_timeout``.

    Raises:
        UserError: There is no model, a key is out of range, or the address cannot be used.
    """
    for key in ("min_score", "draw_min_score"):
        check_score(key, config[key])
    max_upload = parse_bytes(config.max_upload, "max_upload")
    workers = count_workers(Request(threads=config.threads).cores, MOST_WORKERS)
    models = _load_all(config, workers)
    return asyncio.run(_serve(config, models, workers, max_upload))


def _load_all(config: DictConfig, workers: int) -> list[ServedModel]:
    checkpoint = chosen_checkpoint(config.checkpoint, config.weights)
    if config.models and checkpoint is not None:
        raise UserError(f"models and checkpoint={checkpoint} both name models; give one of them.")
    if config.models and (config.then is not None or config.class_names is not None):
        key = "then" if config.then is not None else "class_names"
        raise UserError(f"{key} is for the model of checkpoint=; leave it out, or serve that model alone.")
    for name in config.models:
        check_value("models: a name", name, ModelName)
    models = []
    for name, its in (dict(config.models) or {DEFAULT: checkpoint}).items():
        loaded = load(_request(config, its, workers))
        _say(f"Model {name}: {loaded.name}", *loaded.notes)
        predictor, lines = with_second(
            loaded.predictor, config.then, config.then_margin, threads=config.threads, workers=workers
        )
        _say(*lines)
        models.append(ServedModel(str(name), loaded, predictor, workers=workers, min_score=config.min_score))
    return models


def _request(config: DictConfig, checkpoint: str | None, workers: int) -> Request:
    return Request(
        checkpoint=checkpoint,
        class_names=config.class_names,
        runtime=config.runtime,
        precision=config.precision,
        threads=config.threads,
        device=config.device,
        workers=workers,
    )


async def _serve(config: DictConfig, models: Sequence[ServedModel], workers: int, max_upload: int) -> int:
    metrics = Metrics()
    gate = Gate(metrics, config.transfer_timeout)
    uploads = Uploads(most=config.uploads, size=max_upload, seconds=config.transfer_timeout)
    async with hosted(
        models,
        metrics,
        workers=workers,
        batch_size=config.batch_size,
        max_wait=config.max_wait,
        queue=config.queue,
    ) as host:
        app = make_app(host, gate, metrics, uploads, max_upload=max_upload, draw_min_score=config.draw_min_score)
        # The gate logs what fails here; aiohttp would add a traceback for every damaged request.
        quiet = logging.getLogger(f"{__name__}.http")
        quiet.setLevel(logging.CRITICAL)
        # The work of clients that leave is dropped.
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=quiet,
            handler_cancellation=True,
            keepalive_timeout=_IDLE,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            return await _until_stopped(config, runner, gate)
        finally:
            await runner.cleanup()


async def _until_stopped(config: DictConfig, runner: web.AppRunner, gate: Gate) -> int:
    site = web.TCPSite(runner, config.host, config.port)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        # Windows has no such handlers: there, Ctrl-C ends the process at once.
        with suppress(NotImplementedError):
            loop.add_signal_handler(each, stopped.set)
    try:
        await site.start()
    except OSError as error:
        raise UserError(
            f"host={config.host} port={config.port}: the address cannot be used ({one_line(error)}); name others."
        ) from None
    host, port = runner.addresses[0][:2]
    _say(f"Serving on http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C or SIGTERM stops)")
    await stopped.wait()
    # A second signal ends the process at once.
    for each in signals:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(each)
    _say(f"Stopping: {gate.active} requests are being answered")
    await site.stop()
    if await gate.close(config.stop_timeout):
        return 0
    _say(f"Stopped: {gate.active} requests had no answer within stop_timeout={config.stop_timeout:g} s")
    return 1


def _say(*lines: str) -> None:
    for line in lines:
        print(shown(line), flush=True)
