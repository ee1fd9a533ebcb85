"""A server on the loopback interface that speaks Ollama's chat and OpenAI's, and can fail.

The stream of `/api/chat` follows `ChatHandler` in `server/routes.go` of Ollama: a line of JSON a
piece, the last with `done`. `/v1/chat/completions` follows OpenAI's API reference.
"""

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

Fault = Literal[
    "429", "429-later", "500", "503", "400", "401", "404", "hang", "garbage", "shape", "cut",
    "no-end", "error-line", "redirect", "drop",
]  # fmt: skip


@dataclass
class Reply:
    text: str
    reason: str = "stop"


@dataclass
class Asked:
    """One chat request, as it came."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


def _echo(asked: Asked) -> Reply:
    return Reply(f"Answer to {asked.prompt}")


class FakeModels:
    """The server; a context manager. It has the models in `models`, which say `reply`."""

    def __init__(self) -> None:
        self.models = ["teacher:latest", "judge:latest"]
        self.remote_models: set[str] = set()
        self.reply: Callable[[Asked], Reply] = _echo
        self.before: Callable[[Asked], None] = lambda _: None
        self.faults: deque[Fault | None] = deque()
        """What happens to the next chat requests, one each; then all is well."""
        self.always: Fault | None = None
        self.seen: list[Asked] = []
        self.answered: list[Asked] = []
        """Those that got a whole answer."""
        self.in_work = 0
        self.most_in_work = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            fake_models = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1"

    def prompts(self) -> list[str]:
        return [asked.prompt for asked in self.seen]

    def __enter__(self) -> "FakeModels":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake_models: FakeModels
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.fake_models
        models = [
            {"name": name, "model": name, "digest": "0" * 64}
            | ({"remote_host": "https://elsewhere"} if name in fake.remote_models else {})
            for name in fake.models
        ]
        self._json(200, {"models": models})

    def do_POST(self) -> None:
        fake = self.fake_models
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        asked = Asked(self.path, body, {k.lower(): v for k, v in self.headers.items()})
        with fake.lock:
            fake.seen.append(asked)
            fault = fake.faults.popleft() if fake.faults else fake.always
            fake.in_work += 1
            fake.most_in_work = max(fake.most_in_work, fake.in_work)
        try:
            fake.before(asked)
            self._serve(asked, fault)
        finally:
            with fake.lock:
                fake.in_work -= 1

    def _serve(self, asked: Asked, fault: Fault | None) -> None:
        if fault is not None and self._fail(fault, asked):
            return
        if asked.path == "/api/chat":
            self._ollama(asked, fault)
        elif asked.path == "/v1/chat/completions":
            self._openai(asked)
        else:
            self._json(404, {"error": "404 page not found"})

    def _fail(self, fault: Fault, asked: Asked) -> bool:
        key = asked.headers.get("authorization", "")
        match fault:
            case "429" | "500" | "503" | "400" | "401" | "404":
                self._json(int(fault), {"error": f"no \x1b[31m for {key}"})
            case "429-later":
                self._json(429, {"error": "slow down"}, {"Retry-After": "0.3"})
            case "hang":
                self.fake_models.closing.wait(30)
                self.close_connection = True
            case "drop":
                self.close_connection = True
            case "garbage":
                self._raw(200, b"<html>not what you think</html>\n")
            case "shape":
                self._raw(200, b'{"choices": [], "message": 5}\n')
            case "redirect":
                self._json(307, None, {"Location": "http://127.0.0.1:9/v1"})
            case "cut":
                self._head(200, {"Content-Length": "5000"})
                self.wfile.write(b'{"model": "teacher", "message": {"role": "assistant", ')
                self.close_connection = True
            case "no-end" | "error-line":
                return False
        return True

    def _ollama(self, asked: Asked, fault: Fault | None) -> None:
        fake = self.fake_models
        name = asked.body["model"]
        if (name if ":" in name else f"{name}:latest") not in fake.models:
            self._json(404, {"error": f"model '{name}' not found"})
            return
        reply = fake.reply(asked)
        half = len(reply.text) // 2
        lines: list[dict[str, Any]] = [
            {"model": name, "message": {"role": "assistant", "content": part}, "done": False}
            for part in (reply.text[:half], reply.text[half:])
        ]
        if fault == "error-line":
            lines = [lines[0], {"error": "the runner has crashed"}]
        elif fault != "no-end":
            last = {"role": "assistant", "content": ""}
            lines.append(
                {"model": name, "message": last, "done": True, "done_reason": reply.reason,
                 "eval_count": 7}
            )  # fmt: skip
            with fake.lock:
                fake.answered.append(asked)
        self._raw(200, b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def _openai(self, asked: Asked) -> None:
        reply = self.fake_models.reply(asked)
        message = {"role": "assistant", "content": reply.text}
        with self.fake_models.lock:
            self.fake_models.answered.append(asked)
        self._json(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": reply.reason}],
                "usage": {"completion_tokens": 7},
            },
        )

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, b"" if body is None else json.dumps(body).encode(), headers)

    def _raw(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"Content-Length": str(len(body))} | (headers or {}))
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
