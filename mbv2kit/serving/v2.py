"""The routes of the Open Inference Protocol (KServe V2)."""

from collections.abc import Callable

from aiohttp import web

import mbv2kit
from mbv2kit.serving.errors import RefusedError
from mbv2kit.serving.host import Host, Hosted
from mbv2kit.serving.model import VERSION
from mbv2kit.serving.protocol import HEADER_LENGTH, joined, read_request, write_response
from mbv2kit.serving.uploads import Uploads

_MODEL = "/v2/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"


def add_v2(app: web.Application, host: Host, uploads: Uploads, is_ready: Callable[[], bool]) -> None:
    """Adds the routes to an application.

    Args:
        app: The application.
        host: The models.
        uploads: Receives the tensors.
        is_ready: Tells whether the server accepts requests.
    """

    def find(request: web.Request) -> Hosted:
        return host.find(request.match_info["name"], request.match_info.get("version"))

    async def server(_: web.Request) -> web.Response:
        values = {"name": "mbv2kit", "version": mbv2kit.__version__, "extensions": ["binary_tensor_data"]}
        return web.json_response(values)

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"ready": is_ready()}, status=200 if is_ready() else 503)

    async def model(request: web.Request) -> web.Response:
        return web.json_response(find(request).model.metadata())

    async def model_ready(request: web.Request) -> web.Response:
        values = {"name": find(request).model.name, "ready": is_ready()}
        return web.json_response(values, status=200 if is_ready() else 503)

    async def infer(request: web.Request) -> web.Response:
        found = find(request)
        found.batcher.check_room()
        body = await uploads.read(request)
        (images,), outputs = found.model.inputs, found.model.outputs
        wanted = read_request(body, request.headers.get(HEADER_LENGTH), images, [each.name for each in outputs])
        if len(wanted.images) > found.batcher.room:
            most = f"{found.batcher.room} images, as many as may wait (queue=)"
            raise RefusedError(413, f"A request has at most {most}; got {len(wanted.images)}.")
        arrays = joined(await found.batcher.submit(list(wanted.images)))
        names = {"model_name": found.model.name, "model_version": VERSION}
        answer, length = write_response(wanted, arrays, outputs, names)
        if length is None:
            return web.Response(body=answer, content_type="application/json")
        return web.Response(body=answer, content_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})

    app.router.add_get("/v2", server)
    app.router.add_get("/v2/health/live", live)
    app.router.add_get("/v2/health/ready", ready)
    for address in (_MODEL, _VERSION):
        app.router.add_get(address, model)
        app.router.add_get(f"{address}/ready", model_ready)
        app.router.add_post(f"{address}/infer", infer)
