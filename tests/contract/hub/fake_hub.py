"""A Hub on the loopback interface, with a store of large files at a second address.

What it does follows the answers that `huggingface_hub` expects: `/api/models/…`, `/resolve/…` with
`ETag`, `X-Repo-Commit` and `X-Linked-*`, a redirect to another host for large files, and ranges.
Faults are queued by path: a file's name, or `about` for the description of a repository.
"""

import hashlib
import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub.utils.sha import git_hash

COMMIT = "1" * 40
OTHER_COMMIT = "2" * 40
TOKEN = "hf_" + "aBcD1234" * 4


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer."""

    status: int = 0
    """Answered in place of what was asked for."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """The connection breaks after so many bytes of the body."""
    hang: bool = False
    """Nothing is answered until the server is closed."""
    drip: bool = False
    """The body comes a byte at a time."""
    body: bytes | None = None
    """Sent in place of the content."""
    ignore_range: bool = False
    wrong_range: bool = False
    """The piece begins a byte later than was asked for."""
    chunked: bool = False
    """Without a length, and ended well after `cut_after` bytes."""
    times: int = 1
    """For so many answers; -1 for all."""


@dataclass
class FakeRepo:
    """One commit of a repository."""

    files: dict[str, bytes]
    commit: str = COMMIT
    about: dict[str, Any] = field(default_factory=dict)
    """Added to what `/api/models/…` says."""
    gated: bool = False
    """Files are given only to those with a token."""
    private: bool = False

    def is_large(self, name: str) -> bool:
        return name.endswith((".safetensors", ".bin"))

    def etag(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if self.is_large(name) else git_hash(content)

    def siblings(self) -> list[dict[str, Any]]:
        found = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            entry["blobId"] = git_hash(content)
            if self.is_large(name):
                entry["lfs"] = {"sha256": self.etag(name), "size": len(content), "pointerSize": 134}
            found.append(entry)
        return found

    def tree(self) -> list[dict[str, Any]]:
        found = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
            entry["oid"] = git_hash(content)
            if self.is_large(name):
                entry["lfs"] = {"oid": self.etag(name), "size": len(content), "pointerSize": 134}
            found.append(entry)
        return found


@dataclass(frozen=True)
class Seen:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    at_store: bool


class FakeHub:
    """The server; a context manager. `url` goes into HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repos: dict[str, FakeRepo] = {}
        self.seen: list[Seen] = []
        self.faults: dict[str, list[Fault]] = {}
        self.tokens = {TOKEN}
        self.closing = threading.Event()
        self._servers = [self._server(at_store=False), self._server(at_store=True)]
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            for server in self._servers
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def store_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def __enter__(self) -> "FakeHub":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def asked(self, word: str) -> list[Seen]:
        """Return the requests whose path has `word` in it."""
        return [seen for seen in self.seen if word in seen.path]

    def take_fault(self, path: str) -> Fault:
        queue = self.faults.get(path, [])
        if not queue:
            return Fault()
        fault = queue[0]
        if fault.times == 1:
            queue.pop(0)
        elif fault.times > 1:
            queue[0] = Fault(**{**fault.__dict__, "times": fault.times - 1})
        return fault

    def _server(self, *, at_store: bool) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            state = hub
            is_store = at_store

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeHub
    is_store: bool

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        return

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.seen.append(Seen(self.command, self.path, headers, self.is_store))
        path = unquote(urlsplit(self.path).path)
        with suppress(ConnectionError):
            if self.is_store:
                self._content(*path.strip("/").rsplit("/", 2))
            elif found := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/(.+))?", path):
                self._about(found[1], found[2] or "revision", found[3] or "main")
            elif found := re.fullmatch(r"/api/datasets/(.+)", path):
                self._about_rows(found[1])
            elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
                self._resolve(found[1], found[2], found[3])
            else:
                self._refuse(404, {})

    def _about(self, name: str, kind: str, revision: str) -> None:
        fault = self.state.take_fault("about")
        repo = self._repo(name, revision)
        if fault.status or fault.hang or repo is None:
            self._fail(fault)
            return
        if kind == "tree":
            answer: Any = repo.tree()
        else:
            answer = {"id": name, "modelId": name, "sha": repo.commit, "private": repo.private}
            answer |= {"gated": False, "tags": [], "siblings": repo.siblings(), **repo.about}
        body = json.dumps(answer).encode() if fault.body is None else fault.body
        self._send(200, {"Content-Type": "application/json", **fault.headers}, body, fault)

    def _about_rows(self, name: str) -> None:
        fault = self.state.take_fault("about")
        repo = self._repo(name, "main")
        if repo is None:
            return
        if fault.status or fault.hang:
            self._fail(fault)
            return
        body = json.dumps({"id": name, "gated": repo.gated and "auto"}).encode()
        self._send(200, {"Content-Type": "application/json"}, body, fault)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        if repo.gated and not self._has_token():
            self._refuse(403, {"X-Error-Code": "GatedRepo"})
            return
        if file not in repo.files:
            self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
            return
        if repo.is_large(file):
            self._headers(
                302,
                {
                    "Location": f"{self.state.store_url}/{name}/{repo.commit}/{file}",
                    "X-Repo-Commit": repo.commit,
                    "X-Linked-Etag": f'"{repo.etag(file)}"',
                    "X-Linked-Size": str(len(repo.files[file])),
                    "Content-Length": "0",
                },
            )
            return
        self._content(name, repo.commit, file)

    def _content(self, name: str, commit: str, file: str) -> None:
        repo = self.state.repos.get(name)
        if repo is None:
            self._refuse(404, {})
            return
        fault = self.state.take_fault(file) if self.command == "GET" else Fault()
        if fault.status or fault.hang:
            self._fail(fault)
            return
        content = repo.files[file] if fault.body is None else fault.body
        headers = {"ETag": f'"{repo.etag(file)}"', "X-Repo-Commit": commit, **fault.headers}
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not fault.ignore_range:
            start = int(wanted[1]) + int(fault.wrong_range)
            if start >= len(content):
                self._refuse(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        self._send(status, headers, content, fault)

    def _repo(self, name: str, revision: str) -> FakeRepo | None:
        """Return the repository, or None after an answer which says that there is none."""
        token = self.headers.get("Authorization")
        if token is not None and not self._has_token():
            self._refuse(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        repo = self.state.repos.get(name)
        if repo is None or (repo.private and not self._has_token()):
            self._refuse(404 if self._has_token() else 401, {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in {"main", repo.commit}:
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repo

    def _has_token(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.state.tokens

    def _fail(self, fault: Fault) -> None:
        if fault.hang:
            self.state.closing.wait()
            self._break()
        elif fault.status:
            self._refuse(fault.status, fault.headers)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self._headers(status, {"Content-Length": "0", **headers})

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
        if fault.chunked:
            self._headers(status, {**headers, "Transfer-Encoding": "chunked"})
            piece = body[: fault.cut_after]
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece))
            return
        self._headers(status, {"Content-Length": str(len(body)), **headers})
        if self.command == "HEAD":
            return
        if fault.drip:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.state.closing.wait(0.02):
                    break
            return
        self.wfile.write(body if fault.cut_after is None else body[: fault.cut_after])
        if fault.cut_after is not None:
            self._break()

    def _break(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
