"""What every request passes: it is counted, its errors become sentences, and its response is sent in bounded time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

from aiohttp import web

from mbv2kit.errors import UserError
from mbv2kit.serving.errors import RETRY_AFTER, RefusedError
from mbv2kit.serving.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


class Gate:
    """Lets requests in until the server stops.

    Args:
        metrics: Counts the requests.
        seconds: Time in which a client must take a response.

    Attributes:
        active: Requests that were let in and have no whole response yet.
        open: Whether requests are let in.
    """

    def __init__(self, metrics: Metrics, seconds: float) -> None:
        self.active = 0
        self.open = True
        self._metrics = metrics
        self._seconds = seconds
        self._idle = asyncio.Event()
        metrics.watch_active(lambda: self.active)

    async def close(self, seconds: float) -> bool:
        """Lets no further request in, and waits for those that are in.

        Args:
            seconds: How long to wait.

        Returns:
            Whether all of them ended.
        """
        self.open = False
        if self.active:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), seconds)
            except TimeoutError:
                return False
        return True

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handles a request, as aiohttp calls it."""
        resource = request.match_info.route.resource
        route, started = "unknown" if resource is None else resource.canonical, perf_counter()
        # What becomes of a request whose client leaves.
        status = "gone"
        self.active += 1
        try:
            response = await self._answer(request, handler)
            if await self._send(request, response):
                status = str(response.status)
            return response
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(perf_counter() - started)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.open and request.method == "POST":
            return _error(503, "The server is stopping.")
        try:
            return await handler(request)
        except RefusedError as error:
            return _error(error.status, str(error))
        except web.HTTPNotFound:
            return _error(404, f"There is no {request.path:.200} here.")
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            response = _error(405, f"{request.path:.200} takes {allowed}, not {request.method:.20}.")
            response.headers["Allow"] = allowed
            return response
        except UserError as error:
            _log.error("%s", error)
            return _error(500, str(error))
        except ConnectionError:
            raise
        except Exception:
            _log.exception("A request failed")
            return _error(500, "The server failed; its log says why.")

    async def _send(self, request: web.Request, response: web.StreamResponse) -> bool:
        """Sends a response; returns whether the client took all of it."""
        if not self.open:
            response.force_close()
        transport = request.transport
        if transport is None:
            return False
        try:
            async with asyncio.timeout(self._seconds):
                # drain() waits until nothing is left to send.
                transport.set_write_buffer_limits(high=0)
                writer = await response.prepare(request)
                await response.write_eof()
                if writer is not None:
                    await writer.drain()
                return True
        except TimeoutError:
            transport.abort()
        except ConnectionError:
            pass
        return False


def _error(status: int, message: str) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}
    return web.json_response({"error": message}, status=status, headers=headers)
