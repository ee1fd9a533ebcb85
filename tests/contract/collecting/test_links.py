"""Images that rows link to are looked up: on a server, and beside the file."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from llamaforge.collecting.links import check_links
from llamaforge.data.images import address_of, addresses_in
from llamaforge.data.records import RowError


class Pictures(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        codes = {"/there.png": 200, "/only-get.png": 405, "/moved.png": 301}
        self._answer(codes.get(self.path, 404))

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/only-get.png" else 404)

    def _answer(self, code: int) -> None:
        self.send_response(code)
        if code == 301:
            self.send_header("Location", "/there.png")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        del format, args


@pytest.fixture
def server() -> Iterator[str]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    thread.join()
    found.server_close()


def asked(*parts: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": list(parts)},
                         {"role": "assistant", "content": "A cat."}], **more}  # fmt: skip


def part(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_what_is_not_there_is_named_with_its_row(server: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"x")
    rows = [
        asked(part(f"{server}/there.png"), part(f"{server}/only-get.png")),
        asked(part(f"{server}/gone.png")),
        asked({"type": "text", "text": "<image>"}, images=["cat.png", "dog.png"]),
        asked(part(f"{server}/moved.png"), part("s3://bucket/cat.png")),
        asked(part("http://127.0.0.1:9/\x1b[1m.png"), part("data:image/png;base64,AA==")),
        asked(part(f"{server}/gone.png")),
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[tuple[int, int]] = []
    found = check_links([data], lambda done, every: told.append((done, every)))
    assert {(link.ref.row, link.address.rpartition("/")[2]): link.reason for link in found.broken} \
        == {
            (2, "gone.png"): "the server answers 404",
            (3, "dog.png"): "there is no such file",
            (4, "cat.png"): "addresses that begin with s3: cannot be looked up",
        }  # fmt: skip
    assert (found.links, found.looked_up) == (7, 7)
    assert told[-1] == (7, 7)


def test_a_server_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(asked(part("http://127.0.0.1:9/cat.png"))) + "\n")
    [link] = check_links([data], lambda *_: None).broken
    assert link.reason
    assert link.reason.isprintable()


def test_every_place_of_an_image_is_seen() -> None:
    row = asked({"type": "image", "image": "a.png"}, part("b.png"), image="c.png")
    assert sorted(addresses_in(row)) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    "address", ["http://", "https:// a.png", "http://x/\x07", "http://[", "x" * 9_000]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(RowError, match="neither a link nor a path"):
        address_of(address, "message 1")
