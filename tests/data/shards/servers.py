"""Servers on loopback that hold a folder: HTTP with ranges and faults on demand, and S3."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# What goes wrong with the n-th request of a range, counted from 0; None for nothing.
Fault = str | None
Faults = Callable[[int], Fault]


class HttpFolder:
    """A folder that is served with support for ranges.

    Args:
        folder: The folder.
        faults: What goes wrong with each request: ``cut`` closes the connection in the middle of the body, ``500``,
            ``503`` and ``429`` are statuses, ``corrupt`` changes a byte, ``silent`` sends half of the body and then
            nothing until the server stops, ``whole`` ignores the range, ``short`` sends less than asked for.

    Attributes:
        requests: Range of each request, with the name of the file.
        sent: Bytes of bodies by file.
    """

    def __init__(self, folder: Path, faults: Faults = lambda number: None) -> None:
        self.requests: list[tuple[str, int, int]] = []
        self.sent: Counter[str] = Counter()
        self._folder = folder
        self.faults = faults
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Closes the server."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = self._folder / request.path.lstrip("/")
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if not path.is_file():
            self._send(request, 404, b"")
            return
        content, status, fault = path.read_bytes(), 200, None
        if found:
            start, stop = int(found[1]), int(found[2]) + 1
            with self._lock:
                fault = self.faults(len(self.requests))
                self.requests.append((path.name, start, stop))
            if start >= len(content):
                self._send(request, 416, b"")
                return
            status, content = (200, content) if fault == "whole" else (206, content[start:stop])
        if fault in ("429", "500", "503"):
            self._send(request, int(fault), b"")
            return
        if fault == "short":
            content = content[: len(content) // 2]
        if fault == "corrupt":
            content = bytes([content[0] ^ 255]) + content[1:]
        with self._lock:
            self.sent[path.name] += len(content)
        self._send(request, status, content, fault)

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, fault: Fault = None) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault in ("cut", "silent"):
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            if fault == "silent":
                self._stopped.wait()
            request.close_connection = True
            return
        request.wfile.write(body)


@contextmanager
def http_folder(folder: Path, faults: Faults = lambda number: None) -> Iterator[HttpFolder]:
    """Serves a folder until the block ends."""
    server = HttpFolder(folder, faults)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def s3_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """Serves a folder as ``s3://shards/data``; yields that URL and the endpoint."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="shards")
        for path in folder.iterdir():
            client.upload_file(str(path), "shards", f"data/{path.name}")
        yield "s3://shards/data", endpoint
    finally:
        server.stop()
