"""An HTTP transport that no server can make wait for ever or fill the memory."""

import time
from collections.abc import Iterator
from typing import Final

import httpx

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024  # the tags of some ten thousand models


class BoundedTransport(httpx.BaseTransport):
    """Passes requests to `inner`; an answer ends in `total_seconds` and `MAX_ANSWER_BYTES`.

    httpx bounds only the wait for the next piece: a server that drips a byte a second would hold
    it for ever. A packed answer is refused, since a small one may unpack to any size.
    Being given explicitly, a transport also keeps httpx from using a proxy of the environment:
    data goes to the host that was named, and nowhere else.
    """

    def __init__(self, inner: httpx.BaseTransport, total_seconds: float) -> None:
        self._inner = inner
        self._total_seconds = total_seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the server's answer with a bounded body."""
        request.headers["Accept-Encoding"] = "identity"
        deadline = time.monotonic() + self._total_seconds
        response = self._inner.handle_request(request)
        if not isinstance(response.stream, httpx.SyncByteStream):
            raise httpx.RemoteProtocolError("the answer cannot be read piece by piece")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise httpx.RemoteProtocolError("the answer is packed, which was not asked for")
        return httpx.Response(
            status_code=response.status_code,
            headers=response.headers,
            stream=_BoundedStream(response.stream, deadline),
            extensions=response.extensions,
        )


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, deadline: float) -> None:
        self._inner = inner
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._inner:
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise httpx.RemoteProtocolError("the answer is far too long")
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the answer did not end in time")
            yield piece

    def close(self) -> None:
        self._inner.close()
