"""The server as clients of every kind see it: right ones, wrong ones, slow ones, and those that leave."""

import asyncio
import gzip
import io
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image as PillowImage

import mbv2kit
from tests.inference.networks import save_detector, save_shares
from tests.serving.served import Here, here, until

Client = aiohttp.ClientSession
Test = Callable[[Here, Client], Awaitable[None]]


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shares(tmp_path_factory.mktemp("shares"))


def run(folder: Path, test: Test, **options: Any) -> None:
    async def whole() -> None:
        async with asyncio.timeout(120), here(folder, **options) as server, aiohttp.ClientSession(server.url) as client:
            await test(server, client)

    asyncio.run(whole())


def png(*color: int, size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    PillowImage.new("RGB", size, color).save(file, "png")
    return file.getvalue()


async def label(response: aiohttp.ClientResponse) -> Any:
    assert response.status == 200, await response.text()
    best = (await response.json())["classes"][0]
    return best["label"], best["score"]


RED, BLUE = png(200, 40, 10), png(10, 0, 90)
TENSOR = np.full((1, 8, 8, 3), (200, 40, 10), np.uint8)


def infer_body(images: np.ndarray[Any, Any] = TENSOR) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
        ]
    }


def test_an_image_is_the_body_or_the_file_of_a_form(shares: Path) -> None:
    async def test(_: Here, client: Client) -> None:
        async with client.post("/predict", data=RED) as response:
            assert await label(response) == ("red", 0.8)
            assert response.content_type == "application/json"
        form = aiohttp.FormData({"note": "hello"}, quote_fields=False)
        form.add_field("any", BLUE, filename="../x/blue\u202e.png")
        async with client.post("/predict?model=default&output=json", data=form) as response:
            assert await label(response) == ("blue", 0.9)
            line = await response.json()
        assert (line["image"], line["width"], line["height"]) == ("../x/blue\\u202e.png", 16, 12)
        async with client.post("/predict", data=gzip.compress(RED), headers={"Content-Encoding": "gzip"}) as response:
            assert await label(response) == ("red", 0.8)

    run(shares, test)


def test_a_drawing_is_that_of_a_result(tmp_path: Path) -> None:
    folder = save_detector(tmp_path / "detector", [(8, 8, 40, 40, 0.9, 1), (1, 1, 60, 60, 0.2, 0)])
    (tmp_path / "red.png").write_bytes(png(200, 40, 10, size=(300, 200)))

    async def test(_: Here, client: Client) -> None:
        async with client.post("/predict?output=drawing", data=(tmp_path / "red.png").read_bytes()) as response:
            assert (response.status, response.content_type) == (200, "image/jpeg")
            drawing = await response.read()
        async with client.post("/predict?output=mask", data=RED) as response:
            assert response.status == 400
            assert "output=mask is for a model with one mask" in (await response.json())["error"]
        result = mbv2kit.load(folder, runtime="onnxruntime")(tmp_path / "red.png")
        assert drawing == result.save(tmp_path / "drawing.jpg").read_bytes()

    run(folder, test)


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/predict?outpt=mask", 400, "There is no key 'outpt' here. Did you mean 'output'?"),
        ("/predict?output=masks", 400, "output 'masks' is unknown. Did you mean 'mask'?"),
        ("/predict?model=cells", 404, "There is no model 'cells'. Known: default."),
        ("/v2/models/default_/infer", 404, "There is no model 'default_'. Did you mean 'default'?"),
        ("/v2/models/default/versions/2/infer", 404, "The model 'default' has no version '2', only 1."),
        ("/v2/models/default", 405, "/v2/models/default takes GET, HEAD, not POST."),
        ("/v3", 404, "There is no /v3 here."),
    ],
)
def test_a_wrong_address_is_a_sentence(shares: Path, address: str, status: int, message: str) -> None:
    async def test(_: Here, client: Client) -> None:
        async with client.post(address, data=RED) as response:
            assert (response.status, await response.json()) == (status, {"error": message})

    run(shares, test)


@pytest.mark.parametrize("data", [b"", b"garbage", RED[:45], b"\xff\xd8\xff\xe0" + bytes(200), b"GIF89a", bytes(5000)])
def test_garbage_is_told_and_harms_nothing(shares: Path, data: bytes) -> None:
    async def test(_: Here, client: Client) -> None:
        async with client.post("/predict", data=data) as response:
            line = await response.json()
            assert (response.status, line["image"]) == (400, None)
            assert line["error"].startswith("the image: ")
        async with client.post("/v2/models/default/infer", data=data) as response:
            assert (response.status, await response.json()) == (
                400,
                {"error": "The request must be an object of JSON."},
            )
        async with client.post("/predict", data=RED) as response:
            assert await label(response) == ("red", 0.8)

    run(shares, test)


def test_more_pixels_than_infer_reads_are_refused(shares: Path) -> None:
    jpeg = io.BytesIO()
    PillowImage.new("RGB", (16, 16)).save(jpeg, "jpeg")
    frame = jpeg.getvalue().index(b"\xff\xc0") + 5
    bomb = jpeg.getvalue()[:frame] + struct.pack(">HH", 60_000, 50_000) + jpeg.getvalue()[frame + 4 :]

    async def test(_: Here, client: Client) -> None:
        async with client.post("/predict", data=bomb) as response:
            assert response.status == 400
            assert "50000 x 60000 pixels" in (await response.json())["error"]

    run(shares, test)


@pytest.mark.parametrize(
    ("data", "headers", "message"),
    [
        (b"abc", {"Content-Type": "multipart/form-data"}, "is damaged (boundary missed"),
        (b"abc", {"Content-Type": "multipart/form-data; boundary=x"}, "is damaged (Could not find starting boundary"),
        (b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, "got none"),
        (b"--x\r\nno header\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, "is damaged"),
        (RED, {"Content-Encoding": "gzip"}, "is damaged"),
    ],
)
def test_a_damaged_body_is_told(shares: Path, data: bytes, headers: dict[str, str], message: str) -> None:
    async def test(_: Here, client: Client) -> None:
        async with client.post("/predict", data=data, headers=headers) as response:
            assert response.status == 400, await response.text()
            assert message in (await response.json())["error"]

    run(shares, test)


def test_a_form_has_one_file(shares: Path) -> None:
    async def test(_: Here, client: Client) -> None:
        form = aiohttp.FormData()
        for name in ("a.png", "b.png"):
            form.add_field("file", RED, filename=name)
        async with client.post("/predict", data=form) as response:
            error = (await response.json())["error"]
            assert (response.status, error) == (400, "The form must have one file, the image, got several.")

    run(shares, test)


def _form() -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("file", bytes(3000), filename="large.png")
    return form


async def _pieces() -> Any:
    for _ in range(30):
        yield bytes(100)


@pytest.mark.parametrize(
    ("make", "headers"),
    [
        (lambda: bytes(2001), {}),
        (_pieces, {}),
        (_form, {}),
        (lambda: gzip.compress(bytes(1_000_000)), {"Content-Encoding": "gzip"}),
    ],
    ids=["length", "chunks", "form", "compressed"],
)
def test_a_body_that_is_too_large_is_refused(shares: Path, make: Callable[[], Any], headers: dict[str, str]) -> None:
    async def test(server: Here, client: Client) -> None:
        for address in ("/predict", "/v2/models/default/infer"):
            if address != "/predict" and isinstance(make(), aiohttp.FormData):
                continue
            async with client.post(address, data=make(), headers=headers) as response:
                assert response.status == 413
                assert "more than 2,000 bytes, the limit that max_upload sets" in (await response.json())["error"]
        assert server.batches == []

    run(shares, test, max_upload=2000)


def test_a_request_has_no_more_images_than_may_wait(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        async with client.post("/v2/models/default/infer", json=infer_body(np.repeat(TENSOR, 9, axis=0))) as response:
            assert response.status == 413
            assert "at most 8 images, as many as may wait (queue=); got 9" in (await response.json())["error"]
        async with client.post("/v2/models/default/infer", json=infer_body(np.repeat(TENSOR, 8, axis=0))) as response:
            assert (await response.json())["outputs"][0]["shape"] == [8, 3]
        assert server.batches == [3, 3, 2]

    run(shares, test, batch_size=3)


def test_a_full_queue_answers_503_and_the_rest_is_served(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        async def post() -> tuple[int, str | None]:
            async with client.post("/predict", data=RED) as response:
                if response.status == 200:
                    assert await label(response) == ("red", 0.8)
                else:
                    assert "no more than queue=2 may; try again in a moment" in (await response.json())["error"]
                return response.status, response.headers.get("Retry-After")

        accepted = [asyncio.create_task(post())]
        await until(lambda: server.gate.active == 1 and len(server.batcher) == 0 and server.batches != [])
        accepted += [asyncio.create_task(post()) for _ in range(2)]
        await until(lambda: len(server.batcher) == 2)
        assert await asyncio.gather(*(post() for _ in range(5))) == [(503, "1")] * 5
        async with client.post("/v2/models/default/infer", json=infer_body()) as response:
            assert response.status == 503
        # Who only asks how it is gets an answer.
        async with client.get("/v2/health/ready") as response:
            assert response.status == 200
        server.may_run.set()
        assert await asyncio.gather(*accepted) == [(200, None)] * 3
        assert await post() == (200, None)

    run(shares, test, blocked=True, queue=2)


def test_concurrent_requests_share_batches_and_keep_their_answers(shares: Path) -> None:
    colors = {(200, 40, 10): ("red", 0.8), (10, 0, 90): ("blue", 0.9), (30, 60, 10): ("green", 0.6)}

    async def test(server: Here, client: Client) -> None:
        async def post(color: tuple[int, int, int]) -> None:
            async with client.post("/predict", data=png(*color)) as response:
                assert await label(response) == colors[color]

        async def infer(color: tuple[int, int, int]) -> None:
            body = infer_body(np.full((2, 8, 8, 3), color, np.uint8))
            async with client.post("/v2/models/default/infer", json=body) as response:
                found = np.array((await response.json())["outputs"][0]["data"]).reshape(2, 3)
                np.testing.assert_allclose(found, [np.array(color) / sum(color)] * 2, atol=1e-6)

        tasks = [asyncio.create_task(kind(color)) for color in [*colors] * 2 for kind in (post, infer)]
        # One that is no image is in the same batch as others.
        tasks.append(asyncio.create_task(client.post("/predict", data=b"garbage")))  # type: ignore[arg-type]
        await until(lambda: len(server.batcher) == 19 - sum(server.batches))
        server.may_run.set()
        *_, garbage = await asyncio.gather(*tasks)
        assert garbage.status == 400  # type: ignore[attr-defined]
        assert sum(server.batches) == 19
        assert max(server.batches) == 5

    run(shares, test, blocked=True, batch_size=5, queue=64)


async def _open(server: Here, *lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write("".join(f"{line}\r\n" for line in lines).encode())
    await writer.drain()
    return reader, writer


POST = ("POST /predict HTTP/1.1", "Host: x", "Content-Length: 1000", "")


def test_a_slow_upload_ends_in_time_and_keeps_no_one_else_waiting(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        reader, writer = await _open(server, *POST)
        writer.write(b"x" * 10)
        async with client.post("/predict", data=RED) as response:
            assert await label(response) == ("red", 0.8)
        answer = await reader.read(10_000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.3 seconds" in answer
        writer.close()

    run(shares, test, seconds=0.3)


def test_uploads_that_arrive_at_a_time_are_bounded(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        slow = [await _open(server, *POST) for _ in range(2)]
        await until(lambda: server.gate.active == 2)
        async with client.post("/predict", data=RED) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert "no more than uploads=2 may" in (await response.json())["error"]
        for _, writer in slow:
            writer.transport.abort()
        await until(lambda: server.gate.active == 0)
        async with client.post("/predict", data=RED) as response:
            assert await label(response) == ("red", 0.8)

    run(shares, test, uploads=2)


def test_the_images_of_clients_that_leave_are_not_computed(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        first = asyncio.create_task(client.post("/predict", data=RED))
        await until(lambda: server.batches == [1])
        head = ("POST /predict HTTP/1.1", "Host: x", f"Content-Length: {len(RED)}", "")
        gone = [await _open(server, *head) for _ in range(3)]
        for _, writer in gone:
            writer.write(RED)
        await until(lambda: len(server.batcher) == 3)
        for _, writer in gone:
            writer.transport.abort()
        await until(lambda: len(server.batcher) == 0 and server.gate.active == 1)
        server.may_run.set()
        assert (await first).status == 200
        async with client.get("/metrics") as response:
            text = await response.text()
        assert 'mbv2kit_requests_total{route="/predict",status="gone"} 3.0' in text
        assert server.batches == [1]

    run(shares, test, blocked=True)


@pytest.mark.parametrize("lines", [(), ("POST /predict HTTP/1.1",), ("GARBAGE",)])
def test_connections_without_a_whole_request_are_closed(shares: Path, lines: tuple[str, ...]) -> None:
    async def test(server: Here, client: Client) -> None:
        reader, writer = await _open(server, *lines)
        async with asyncio.timeout(30):
            await reader.read()
        writer.close()
        async with client.post("/predict", data=RED) as response:
            assert await label(response) == ("red", 0.8)

    run(shares, test, idle=0.3)


def test_a_client_that_does_not_read_is_left(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        # The responses, of which the client takes none, fill the buffers of both sides.
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        await until(lambda: _gone(server) == 1)
        await until(lambda: server.gate.active == 0)
        async with client.post("/predict", data=RED) as response:
            assert await label(response) == ("red", 0.8)
        writer.transport.abort()

    run(shares, test, seconds=0.3)


def _gone(server: Here) -> float:
    return server.gate._metrics.requests.labels("/metrics", "gone")._value.get()  # type: ignore[no-any-return]


def test_closing_lets_no_one_in_and_waits_for_those_inside(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        inside = asyncio.create_task(client.post("/predict", data=RED))
        await until(lambda: server.batches == [1])
        closing = asyncio.create_task(server.gate.close(60))
        await until(lambda: not server.gate.open)
        async with client.post("/predict", data=RED) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert response.headers["Connection"] == "close"
            assert await response.json() == {"error": "The server is stopping."}
        for address, status in (("/v2/health/live", 200), ("/v2/health/ready", 503), ("/v2/models/default/ready", 503)):
            async with client.get(address) as response:
                assert response.status == status
        assert not closing.done()
        server.may_run.set()
        assert await label(await inside) == ("red", 0.8)
        assert await closing is True

    run(shares, test, blocked=True)


def test_closing_does_not_wait_for_ever(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        inside = asyncio.create_task(client.post("/predict", data=RED))
        await until(lambda: server.batches == [1])
        assert await server.gate.close(0.01) is False
        inside.cancel()

    run(shares, test, blocked=True)


def test_metrics_count_requests_batches_and_what_waits(shares: Path) -> None:
    async def test(server: Here, client: Client) -> None:
        for data in (RED, b"garbage", RED):
            async with client.post("/predict", data=data):
                pass
        async with client.get("/nowhere"):
            pass
        async with client.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
            lines = (await response.text()).splitlines()
        assert {
            'mbv2kit_requests_total{route="/predict",status="200"} 2.0',
            'mbv2kit_requests_total{route="/predict",status="400"} 1.0',
            'mbv2kit_requests_total{route="unknown",status="404"} 1.0',
            'mbv2kit_request_seconds_count{route="/predict"} 3.0',
            'mbv2kit_waiting_images{model="default"} 0.0',
            "mbv2kit_active_requests 1.0",
        } <= set(lines)

    run(shares, test)


def test_a_network_that_fails_is_the_servers_fault(tmp_path: Path) -> None:
    # Shares of nothing are no numbers.
    folder = save_shares(tmp_path)

    async def test(_: Here, client: Client) -> None:
        async with client.post("/predict", data=png(0, 0, 0)) as response:
            assert response.status == 500
            assert "outputs are not numbers" in (await response.json())["error"]
        async with client.post("/v2/models/default/infer", json=infer_body(np.zeros_like(TENSOR))) as response:
            assert response.status == 500
            assert "values that JSON does not have" in json.loads(await response.text())["error"]

    run(folder, test)
