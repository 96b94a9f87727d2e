"""The application: all routes of the server."""

from aiohttp import web

from mbv2kit.serving.gate import Gate
from mbv2kit.serving.host import Host
from mbv2kit.serving.metrics import Metrics
from mbv2kit.serving.predict import add_predict
from mbv2kit.serving.uploads import Uploads
from mbv2kit.serving.v2 import add_v2


def make_app(
    host: Host, gate: Gate, metrics: Metrics, uploads: Uploads, *, max_upload: int, draw_min_score: float
) -> web.Application:
    """Returns the application.

    Args:
        host: The models.
        gate: What requests pass.
        metrics: What ``/metrics`` tells.
        uploads: Receives the bodies of requests.
        max_upload: Bytes of a body.
        draw_min_score: Boxes of a lower score are left out of drawings, 0..1.
    """

    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.content_type})

    app = web.Application(middlewares=[gate.middleware], client_max_size=max_upload)
    app.router.add_get("/metrics", tell)
    add_predict(app, host, uploads, draw_min_score)
    add_v2(app, host, uploads, lambda: gate.open)
    return app
