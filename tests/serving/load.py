"""Loads servers on this machine, in turns, while other clients are killed, slow or send garbage.

python -m tests.serving.load MODEL IMAGES SECONDS [PYTHON]

MODEL is a folder with an ONNX classifier of 224 pixels, IMAGES a folder of JPEGs. The servers are ``mbv2kit serve``
with image files and with tensors and, where PYTHON has FastAPI, tests/serving/fastapi_onnxruntime.py with image files.
They run all the time and are loaded in turns of five seconds. Answers of files are compared with the lines of
``mbv2kit infer``, tensors with the network's outputs, and those of FastAPI with its first ones.
"""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import aiohttp
import numpy as np

import mbv2kit
from mbv2kit.imaging.preprocess import preprocess_file
from tests.serving.served import ROOT, command
from tests.training.usage import usage_of

_TURN = 5.0
_CLIENTS = 8
# Each bad client starts anew as soon as it is done.
_BAD = 4
_WAIT = aiohttp.ClientTimeout(total=60)


@dataclass(slots=True)
class Call:
    """A request, and the answer that it must get; ``image`` is the place of the image in the body."""

    address: str
    body: bytes
    headers: dict[str, str]
    image: tuple[int, int]
    expected: Any = None

    def raw(self) -> tuple[bytes, bytes]:
        """Returns the head and the body of the request as they are sent."""
        headers = {"Host": "x", "Content-Length": str(len(self.body)), **self.headers}
        lines = [f"POST {self.address} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode(), self.body


@dataclass(slots=True)
class Target:
    """A server under load, and what became of its requests."""

    name: str
    pid: int
    port: int
    calls: list[Call]
    read: Callable[[bytes], Any]
    counts: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    memory: list[float] = field(default_factory=list)

    def told(self) -> str:
        """Returns a line of the results."""
        p50, p99 = np.percentile(self.milliseconds or [0], (50, 99))
        right = self.counts["right"]
        times = f"{right / self.seconds:.1f} a second, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        times += f", {1000 * self.cpu / max(1, right):.1f} ms of the processor an answer"
        memory = f"{self.memory[0]:.0f}, {self.memory[len(self.memory) // 2]:.0f}, {self.memory[-1]:.0f} MB"
        own, bad = (", ".join(f"{n} {what}" for what, n in sorted(each.items())) for each in (self.counts, self.bad))
        return f"{self.name}: {times}; {own} ({bad}); memory {memory}"


async def good_client(target: Target, client: aiohttp.ClientSession, end: float) -> None:
    """Sends one request after the other until the turn ends."""
    while monotonic() < end:
        call = random.choice(target.calls)
        start = perf_counter()
        try:
            async with client.post(call.address, data=call.body, headers=call.headers) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            target.counts[f"lost ({type(error).__name__})"] += 1
            continue
        if response.status == 200:
            target.milliseconds.append(1000 * (perf_counter() - start))
            target.counts["right" if target.read(answer) == call.expected else "wrong"] += 1
        else:
            target.counts["refused" if response.status == 503 else f"lost (status {response.status})"] += 1


async def killed(call: Call, writer: asyncio.StreamWriter, end: float) -> None:
    """Sends a request, or a part of it, and is gone."""
    data = b"".join(call.raw())
    writer.write(data[: random.choice((len(data), random.randrange(len(data))))])
    await asyncio.sleep(random.uniform(0, 0.05))
    writer.transport.abort()


async def slow(call: Call, writer: asyncio.StreamWriter, end: float) -> None:
    """Uploads a few bytes at a time."""
    data = b"".join(call.raw())
    for start in range(0, len(data), 64):
        if monotonic() > end:
            break
        writer.write(data[start : start + 64])
        await writer.drain()
        await asyncio.sleep(0.05)
    writer.transport.abort()


async def garbage(call: Call, writer: asyncio.StreamWriter, end: float) -> None:
    """Sends random bytes in place of an image."""
    (head, body), (start, stop) = call.raw(), call.image
    writer.write(head + body[:start] + random.randbytes(stop - start) + body[stop:])
    await asyncio.sleep(0.1)
    writer.close()


async def noise(call: Call, writer: asyncio.StreamWriter, end: float) -> None:
    """Sends random bytes that are no request."""
    writer.write(random.randbytes(2000))
    await asyncio.sleep(0.1)
    writer.close()


Bad = Callable[[Call, asyncio.StreamWriter, float], Awaitable[None]]
BAD: Sequence[Bad] = (killed, slow, garbage, noise)


async def bad_client(target: Target, kind: Bad, end: float) -> None:
    """Behaves badly again and again until the turn ends."""
    while monotonic() < end:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", target.port)
            await kind(random.choice(target.calls), writer, end)
            target.bad[kind.__name__] += 1


def cpu_seconds(pid: int) -> float:
    """Returns the time that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def turn(target: Target, seconds: float) -> None:
    """Loads one server for some seconds."""
    start = monotonic()
    end, spent = start + seconds, cpu_seconds(target.pid)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{target.port}", timeout=_WAIT) as client:
        good = [asyncio.create_task(good_client(target, client, end)) for _ in range(_CLIENTS)]
        bad = [asyncio.create_task(bad_client(target, kind, end)) for kind in BAD for _ in range(_BAD)]
        await asyncio.gather(*good)
        target.seconds += monotonic() - start
        await asyncio.gather(*bad)
    target.cpu += cpu_seconds(target.pid) - spent
    target.memory.append(usage_of([target.pid]).memory)


async def load(targets: Sequence[Target], seconds: float) -> None:
    """Loads all servers in turns, for some seconds each after one turn that does not count."""
    for target in targets:
        await turn(target, _TURN)
        target.counts.clear()
        target.bad.clear()
        target.milliseconds.clear()
        target.memory.clear()
        target.seconds = target.cpu = 0.0
    end = monotonic() + seconds
    while monotonic() < end:
        for target in targets:
            await turn(target, _TURN)


def lines_of_infer(model: str, images: Path, folder: Path) -> dict[str, Any]:
    """Returns the lines of `mbv2kit infer` by the names of the images, as the server gives them."""
    keys = [f"checkpoint={model}", f"output={folder}", "runtime=onnxruntime", "save_images=false"]
    subprocess.run([sys.executable, str(ROOT / "tools" / "infer.py"), str(images), *keys], check=True)
    lines = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    return {Path(line["image"]).name: line | {"image": None} for line in lines}


def tensor_call(model: Any, file: Path) -> Call:
    """Returns the request for an image as a tensor, and the bytes of the outputs that it must get."""
    image = preprocess_file(file, model.preprocess)[0][None]
    size = {"binary_data_size": image.size}
    given = {"name": "images", "datatype": "UINT8", "shape": image.shape, "parameters": size}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body, expected = head + image.tobytes(), model.outputs(image)["probabilities"].tobytes()
    # Any bytes are pixels; without the JSON, they are garbage.
    return Call("/v2/models/default/infer", body, headers, (0, len(body)), expected)


def form_call(file: Path, data: bytes) -> Call:
    """Returns the request for an image as a form."""
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'.encode()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return Call("/predict", head + data + b"\r\n--x--\r\n", headers, (len(head), len(head) + len(data)))


@contextmanager
def fastapi(python: str, model: Path, images: dict[Path, bytes]) -> Iterator[Target]:
    """Runs the baseline."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [
        python,
        "-m",
        "uvicorn",
        "--app-dir",
        str(Path(__file__).parent),
        "fastapi_onnxruntime:app",
    ]
    environment = os.environ | {"MODEL": str(model / "model.onnx")}
    process = subprocess.Popen([*words, "--port", port, "--no-access-log"], env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", int(port))).close()
                break
        requests = [form_call(*each) for each in images.items()]
        target = Target("FastAPI + ONNX Runtime, files", process.pid, int(port), requests, json.loads)
        asyncio.run(_learn(target))
        yield target
    finally:
        process.terminate()
        process.wait()


async def _learn(target: Target) -> None:
    """Takes the first answers of a server for right."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{target.port}") as client:
        for call in target.calls:
            async with client.post(call.address, data=call.body, headers=call.headers) as response:
                call.expected = await response.json()


def main(arguments: Sequence[str]) -> None:
    """Prints what became of the requests, the times and the memory of each server."""
    model, folder, seconds = Path(arguments[0]), Path(arguments[1]), float(arguments[2])
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        lines = lines_of_infer(str(model.resolve()), folder, Path(name) / "found")
        files = {file: file.read_bytes() for file in sorted(folder.iterdir()) if file.name in lines}
        keys = (f"checkpoint={model.resolve()}", "runtime=onnxruntime", "transfer_timeout=3")
        ours = [stack.enter_context(command(Path(name), *keys)) for _ in range(2)]
        predictor = mbv2kit.load(model, runtime="onnxruntime", threads=1)
        as_files = [Call("/predict", data, {}, (0, len(data)), lines[file.name]) for file, data in files.items()]
        as_tensors = [tensor_call(predictor, file) for file in files]
        targets = [
            Target("mbv2kit serve, files", ours[0].process.pid, ours[0].port, as_files, json.loads),
            Target("mbv2kit serve, tensors", ours[1].process.pid, ours[1].port, as_tensors, _after_header),
        ]
        if len(arguments) > 3:
            targets.append(stack.enter_context(fastapi(arguments[3], model, files)))
        asyncio.run(load(targets, seconds))
        for target in targets:
            print(target.told())


def _after_header(answer: bytes) -> bytes:
    end = answer.index(b"}]}") + 3
    return answer[end:]


if __name__ == "__main__":
    main(sys.argv[1:])
