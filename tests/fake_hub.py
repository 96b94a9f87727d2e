"""A server on loopback that speaks as much of the Hugging Face Hub as its library asks for."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Commit:
    """A state of a repository."""

    message: str
    files: dict[str, bytes]

    @property
    def sha(self) -> str:
        listing = "".join(f"{name} {sha1(content).hexdigest()}\n" for name, content in sorted(self.files.items()))
        return sha1(f"{self.message}\n{listing}".encode()).hexdigest()


@dataclass
class Repository:
    """A repository of the fake Hub; ``refused`` is the status and code of the answer to everybody."""

    private: bool = False
    commits: list[Commit] = field(default_factory=lambda: [Commit("initial commit", {})])
    refused: tuple[int, str] | None = None

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)


class FakeHub(ThreadingHTTPServer):
    """As much of the Hugging Face Hub on this machine as its library talks to; large files go by Git LFS."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.read_only = False

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for."""
        return sorted(line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line)

    def __enter__(self) -> "FakeHub":
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        self.server.asked.append(f"{self.command} {unquote(urlsplit(self.path).path)}")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._in_commit(found[1], found[2] or "main", self._info)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            self._in_commit(found[1], found[2], self._tree)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._in_commit(found[1], found[2], lambda _, commit: self._file(commit, found[3]))
        else:
            self._outputs(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            self._outputs(200, {"errors": [], "warnings": []})
        elif self.server.read_only:
            self._outputs(403, {"error": "this token may not write"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in paths}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self._outputs(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}} for one in objects
            ]
            self._outputs(200, {"transfer": "basic", "objects": actions})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._outputs(404)

    def do_PUT(self) -> None:
        content = self._body()
        assert self.path == f"/lfs/{sha256(content).hexdigest()}"
        self.server.large[self.path.rpartition("/")[2]] = content
        self._outputs(200)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(chunks)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        known = name in self.server.repositories
        if not known:
            self.server.repositories[name] = Repository(
                # Clients before 2.0 send the second.
                private=wanted.get("visibility") == "private" or bool(wanted.get("private"))
            )
        self._outputs(409 if known else 200, {"url": f"{self.server.url}/{name}"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[name]
        files = dict(repository.commits[-1].files)
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        commit = Commit(message, files)
        repository.commits.append(commit)
        self._outputs(200, {"commitUrl": f"{self.server.url}/{name}/commit/{commit.sha}", "commitOid": commit.sha})

    def _in_commit(self, name: str, revision: str, outputs: Callable[[str, Commit], None]) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.refused is not None:
            self._refuse(*repository.refused)
        elif (commit := repository.at(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        else:
            outputs(name, commit)

    def _info(self, name: str, commit: Commit) -> None:
        siblings = [{"rfilename": file} for file in commit.files]
        private = self.server.repositories[name].private
        self._outputs(200, {"id": name, "sha": commit.sha, "private": private, "siblings": siblings})

    def _tree(self, name: str, commit: Commit) -> None:
        entries = [
            {"type": "file", "path": file, "size": len(content), "oid": sha1(content).hexdigest()}
            for file, content in commit.files.items()
        ]
        self._outputs(200, entries)

    def _file(self, commit: Commit, file: str) -> None:
        content = commit.files[file]
        self._send(200, content, {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": commit.sha})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _outputs(self, status: int, content: Any = None) -> None:
        self._send(status, json.dumps(content or {}).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
