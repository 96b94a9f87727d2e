"""``POST /predict``: an image file in, its prediction out."""

from aiohttp import web

from mbv2kit.errors import nearest
from mbv2kit.serving.answers import OUTPUTS, Answer, ToAnswer
from mbv2kit.serving.errors import RefusedError
from mbv2kit.serving.host import Host
from mbv2kit.serving.model import ImageJob
from mbv2kit.serving.uploads import Uploads

_KEYS = ("model", "output")


def add_predict(app: web.Application, host: Host, uploads: Uploads, draw_min_score: float) -> None:
    """Adds the route to an application.

    Args:
        app: The application.
        host: The models.
        uploads: Receives the images.
        draw_min_score: Boxes of a lower score are left out of drawings, 0..1.
    """

    async def predict(request: web.Request) -> web.Response:
        for key in request.query:
            if key not in _KEYS:
                raise RefusedError(400, f"There is no key '{key:.80}' here.{nearest(key, _KEYS)}")
        output = request.query.get("output", "json")
        if output not in OUTPUTS:
            raise RefusedError(400, f"output '{output:.80}' is unknown.{nearest(output, OUTPUTS)}")
        found = host.find(request.query.get("model"))
        if output == "mask" and not found.model.has_mask:
            raise RefusedError(
                400, f"output=mask is for a model with one mask, and '{found.model.name}' has none, or several."
            )
        found.batcher.check_room()
        image, name = await uploads.read_image(request)
        job = ImageJob(image, ToAnswer(output, image, name, draw_min_score))
        made: list[Answer] = await found.batcher.submit([job])
        return web.Response(body=made[0].body, status=made[0].status, content_type=made[0].content_type)

    app.router.add_post("/predict", predict)
