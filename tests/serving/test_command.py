"""`mbv2kit serve` as a user starts and stops it, with Triton's client, which knows nothing of mbv2kit."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

import mbv2kit
from mbv2kit.cli.config import compose_config
from mbv2kit.commands.serve import job
from mbv2kit.errors import UserError
from tests.exporting.models import noise, small_model
from tests.inference.networks import save_detector, save_shares
from tests.serving.served import ROOT, Process, command

triton = pytest.importorskip("tritonclient.http")

ROWS = [(8, 8, 40, 40, 0.9, 1), (1.5, 2.5, 60, 60.25, 0.3, 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and some images."""
    folder = tmp_path_factory.mktemp("work")
    save_shares(folder / "colors")
    save_detector(folder / "cells", ROWS)
    (folder / "photos").mkdir()
    for number, image in enumerate(noise(4, (90, 120))):
        PillowImage.fromarray(image).save(folder / "photos" / f"{number}.{'jpg' if number % 2 else 'png'}")
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Process]:
    with command(folder, "models.colors=colors", "models.cells=cells", "runtime=onnxruntime", "threads=2") as process:
        yield process


def client(served: Process) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{served.port}")


def tensor(images: np.ndarray[Any, Any], *, binary: bool = True) -> Any:
    given = triton.InferInput("images", images.shape, "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return given


def post(port: int, address: str, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", address, body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def infer(folder: Path, *arguments: str) -> dict[str, Any]:
    """Returns the lines that `mbv2kit infer` writes, by the name of the image."""
    tool = [sys.executable, str(ROOT / "tools" / "infer.py"), "photos", "output=found", "save_images=false"]
    done = subprocess.run([*tool, *arguments], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    lines = map(json.loads, (folder / "found" / "predictions.jsonl").read_text().splitlines())
    return {Path(line["image"]).name: line for line in lines}


def test_exported_models_are_served_without_torch(served: Process) -> None:
    libraries = Path(f"/proc/{served.process.pid}/maps").read_text()
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries


def test_triton_s_client_asks_what_there_is(served: Process) -> None:
    asked = client(served)
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("cells")
    assert asked.is_model_ready("cells", "1")
    assert not asked.is_model_ready("cells", "2")
    assert not asked.is_model_ready("worms")
    server = {"name": "mbv2kit", "version": mbv2kit.__version__, "extensions": ["binary_tensor_data"]}
    assert asked.get_server_metadata() == server
    assert asked.get_model_metadata("colors") == {
        "name": "colors",
        "versions": ["1"],
        "platform": "mbv2kit_onnxruntime",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    }
    with pytest.raises(triton.InferenceServerException, match=r"no model 'cels'\. Did you mean 'cells'") as error:
        asked.get_model_metadata("cels")
    assert error.value.status() == "404"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_gets_the_networks_outputs(
    folder: Path, served: Process, compression: str, binary: bool
) -> None:
    images = np.stack(noise(3, (8, 8)))
    wanted = None if binary else [triton.InferRequestedOutput("probabilities", binary_data=False)]
    found = client(served).infer(
        "colors",
        [tensor(images, binary=binary)],
        outputs=wanted,
        request_id="a",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    expected = mbv2kit.load(folder / "colors", runtime="onnxruntime").outputs(images)["probabilities"]
    np.testing.assert_array_equal(found.as_numpy("probabilities"), expected)
    assert found.get_response()["id"] == "a"


def test_a_file_of_one_size_of_batch_takes_any_number(served: Process) -> None:
    found = client(served).infer("cells", [tensor(np.zeros((3, 64, 64, 3), np.uint8))], model_version="1")
    np.testing.assert_array_equal(found.as_numpy("detections"), np.array([ROWS] * 3, np.float32))


def test_triton_s_client_is_told_what_is_wrong(served: Process) -> None:
    with pytest.raises(triton.InferenceServerException, match=r"shape of 'images' must be \[-1, 8, 8, 3\]") as error:
        client(served).infer("colors", [tensor(np.zeros((1, 9, 8, 3), np.uint8))])
    assert error.value.status() == "400"


def test_clients_in_many_threads_get_their_own_answers(served: Process) -> None:
    def ask(color: int) -> None:
        asked = client(served)
        for level in range(10, 200, 10):
            image = np.zeros((2, 8, 8, 3), np.uint8)
            image[..., color], image[1, ..., (color + 1) % 3] = level, level
            found = asked.infer("colors", [tensor(image)]).as_numpy("probabilities")
            expected = np.zeros((2, 3))
            expected[0, color], expected[1, [color, (color + 1) % 3]] = 1, 0.5
            np.testing.assert_allclose(found, expected, atol=1e-6)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, [0, 1, 2] * 2))


@pytest.mark.parametrize("model", ["colors", "cells"])
def test_answers_are_the_lines_of_infer(folder: Path, served: Process, model: str) -> None:
    for name, line in infer(folder, f"checkpoint={model}", "runtime=onnxruntime").items():
        status, answer = post(served.port, f"/predict?model={model}", (folder / "photos" / name).read_bytes())
        if "error" in line:
            assert (status, answer["error"]) == (400, line["error"].replace(line["image"], "the image"))
        else:
            assert (status, answer) == (200, line | {"image": None})


def test_several_models_need_a_name(served: Process) -> None:
    sentence = "Several models are served; name one with model=NAME: colors, cells."
    assert post(served.port, "/predict", b"") == (400, {"error": sentence})


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(folder: Path) -> None:
    image = (folder / "photos" / "0.png").read_bytes()
    with command(folder, "checkpoint=colors", "runtime=onnxruntime", "threads=1") as served:
        assert f"Model default: {Path('colors')}\n" in served.lines
        open_connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        open_connection.request("GET", "/v2/health/ready")
        assert open_connection.getresponse().read() == b'{"ready": true}'
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as upload:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode()
            upload.sendall(head + image[:50])
            # The upload has reached the handler once the metrics count it and the request for them.
            while b"mbv2kit_active_requests 2.0" not in metrics(served):
                pass
            served.process.send_signal(signal.SIGTERM)
            assert served.process.stdout is not None
            assert served.process.stdout.readline() == "Stopping: 1 requests are being answered\n"
            while _accepts(served.port):
                pass
            assert served.process.poll() is None
            upload.sendall(image[50:])
            answer = b"".join(iter(lambda: upload.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        assert b'"classes"' in answer
        assert served.process.wait(60) == 0
        assert served.process.stdout.read() == ""


def metrics(served: Process) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.slow
def test_a_request_that_never_ends_is_given_up_and_told(folder: Path) -> None:
    with command(folder, "checkpoint=colors", "runtime=onnxruntime", "stop_timeout=0.1") as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as upload:
            upload.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            while b"mbv2kit_active_requests 2.0" not in metrics(served):
                pass
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(60) == 1
        assert served.process.stdout is not None
        assert "Stopped: 1 requests had no answer within stop_timeout=0.1 s" in served.process.stdout.read()


@pytest.mark.slow
def test_a_second_model_classifies_the_boxes(folder: Path) -> None:
    keys = ("checkpoint=cells", "then=colors", "then_margin=0.1", "runtime=onnxruntime")
    lines = infer(folder, *keys)
    assert all("then" in box for line in lines.values() for box in line.get("boxes", []))
    with command(folder, *keys, "min_score=0.5") as served:
        for name in ("0.png", "1.jpg"):
            status, answer = post(served.port, "/predict", (folder / "photos" / name).read_bytes())
            assert (status, answer["boxes"]) == (200, lines[name]["boxes"][:1])


@pytest.mark.slow
def test_answers_of_three_heads_in_batches_are_the_lines_of_infer(folder: Path) -> None:
    pytest.importorskip("onnxscript")
    model = small_model("classification", "detection", "segmentation")
    model.save(folder / "heads")
    export = [sys.executable, str(ROOT / "tools" / "export.py"), "checkpoint=heads", "check_pictures=2"]
    subprocess.run(export, cwd=folder, check=True, capture_output=True)
    lines = infer(folder, "checkpoint=heads", "runtime=onnxruntime")
    keys = ("checkpoint=heads", "runtime=onnxruntime", "batch_size=4", "max_wait=20")
    with command(folder, *keys) as served, ThreadPoolExecutor(8) as pool:
        names = [name for name in lines if name != "broken.jpg"] * 5
        bodies = [(folder / "photos" / name).read_bytes() for name in names]
        answers = list(pool.map(lambda body: post(served.port, "/predict", body), bodies))
        for name, (status, answer) in zip(names, answers, strict=True):
            line = {key: value for key, value in lines[name].items() if key != "mask"}
            assert (status, answer) == (200, line | {"image": None})
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/predict?output=mask", bodies[0])
        assert connection.getresponse().read() == (folder / "found" / lines[names[0]]["mask"]).read_bytes()
        sizes = [line for line in metrics(served).decode().splitlines() if "batch_images_bucket" in line]
        assert sizes[0].split()[-1] != sizes[2].split()[-1], "no batch had more than one image"


def test_keys_set_the_limits_and_what_is_answered(folder: Path) -> None:
    keys = ("queue=1", "uploads=1", "max_upload=30kB", "transfer_timeout=0.5", "min_score=0.5", "draw_min_score=0.95")
    (folder / "names.txt").write_text("ant\nbee\n")
    image = (folder / "photos" / "1.jpg").read_bytes()
    with command(folder, "checkpoint=cells", "class_names=names.txt", "runtime=onnxruntime", *keys) as served:
        status, answer = post(served.port, "/predict", image)
        assert (status, [(box["label"], box["score"]) for box in answer["boxes"]]) == (200, [("bee", 0.9)])
        result = mbv2kit.load(folder / "cells", runtime="onnxruntime")(folder / "photos" / "1.jpg")
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/predict?output=drawing", image)
        bare, drawn = (result.save(folder / f"{score}.jpg", score).read_bytes() for score in (0.95, 0.4))
        assert connection.getresponse().read() == bare != drawn
        assert post(served.port, "/predict", bytes(30_001))[0] == 413
        with pytest.raises(triton.InferenceServerException, match="at most 1 images, as many as may wait"):
            client(served).infer("default", [tensor(np.zeros((2, 64, 64, 3), np.uint8))])
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as upload:
            upload.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            while post(served.port, "/predict", image)[0] != 503:
                pass
            assert upload.recv(1000).startswith(b"HTTP/1.1 408 ")


MISTAKES = [
    (["models.1x=colors"], "models: a name must be text of letters, digits, _ and -, a letter first, got '1x'."),
    (["checkpoint=nowhere"], "nowhere"),
    (["checkpoint=colors", "models.a=cells"], "models and checkpoint=colors both name models; give one of them."),
    (["models.a=colors", "then=colors"], "then is for the model of checkpoint=; leave it out"),
    (["models.a=colors", "class_names=names.txt"], "class_names is for the model of checkpoint=; leave it out"),
    (["checkpoint=colors", "then_margin=0.5"], "then_margin=0.5 is for the model of then="),
    (["checkpoint=colors", "then=colors"], "then=colors: A second model classifies the boxes of a detector"),
    (["checkpoint=colors", "max_upload=much"], "max_upload must be an amount of memory such as 1MB"),
    (["checkpoint=colors", "host=256.1.1.1"], "host=256.1.1.1 port=0: the address cannot be used"),
]


@pytest.mark.parametrize(("keys", "message"), MISTAKES)
def test_a_mistake_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str], message: str) -> None:
    monkeypatch.chdir(folder)
    config = compose_config(ROOT / "conf", "serve", ["port=0", "runtime=onnxruntime", *keys])
    with pytest.raises(UserError, match=r".") as error:
        job(config)
    assert message in str(error.value)


def test_a_port_that_is_taken_is_a_sentence(folder: Path, served: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    keys = ["checkpoint=colors", "runtime=onnxruntime", f"port={served.port}"]
    with pytest.raises(UserError, match=f"host=127.0.0.1 port={served.port}: the address cannot be used"):
        job(compose_config(ROOT / "conf", "serve", keys))


def test_without_its_packages_it_says_what_to_install(folder: Path) -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from mbv2kit.commands.serve import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "checkpoint=colors"], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: mbv2kit serve needs aiohttp and more: pip install 'mbv2kit[serve]'\n"
