"""One file from the Hub: gone on with after a cut, and kept only if its digest is right.

What has come lies in `blobs/<etag>.incomplete`, always a beginning of the file, and stays there
when the program ends in any way; the next download goes on from it. (`huggingface_hub` up to 1.x
left the same files; later ones start again from nothing, which is why this is written out here.)
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Final

import httpx

from llamaforge.catalog import hub_errors
from llamaforge.catalog.hub_http import Patience, endpoint, file_url, refuse_packed
from llamaforge.catalog.hub_layout import BLOB, INCOMPLETE
from llamaforge.files import commit as put_in_place

_CHUNK_BYTES: Final = 1 << 20
_SHA256_DIGITS: Final = 64
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit as the Hub describes it."""

    name: str
    size_bytes: int
    etag: str
    """The sha256 of a large file, the sha1 that git gives a small one; hexadecimal."""

    def __post_init__(self) -> None:
        if not BLOB.fullmatch(self.etag):
            raise ValueError("an etag is a sha1 or a sha256")


class _Again(Exception):  # noqa: N818 - it is no error
    """The attempt ended early; `error` is what a person is told if it was the last one."""

    def __init__(self, error: Exception, after_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_seconds = after_seconds


class Transfer:
    """Fetches files of one commit of one repository."""

    def __init__(
        self,
        client: httpx.Client,
        repo: str,
        commit: str,
        *,
        patience: Patience,
        stopped: Callable[[], bool],
    ) -> None:
        self._client = client
        self._repo = repo
        self._commit = commit
        self._patience = patience
        self._stopped = stopped

    def fetch(self, file: RemoteFile, blob: Path, on_bytes: Callable[[int], None]) -> None:
        """Write the content of `file` to `blob`, whose folder exists.

        `on_bytes` takes how many bytes of the file are there; it goes back where what was left
        of an earlier download turns out to be something else.

        Raises:
            HubError: it cannot be fetched, or is not what the commit holds (`hub_checksum`).
            DownloadStoppedError: `stopped` returned True.
            OSError: it cannot be written.
        """
        part = blob.with_name(f"{file.etag}{INCOMPLETE}")
        with _Part(part, file) as beginning:
            had = beginning.read_what_is_there(self.check_stopped, on_bytes)
            self._fill(beginning, on_bytes)
            if beginning.digest() != file.etag and had:
                # What was there before may have been the wrong part.
                beginning.start_again()
                on_bytes(0)
                self._fill(beginning, on_bytes)
            found = beginning.digest()
            if found != file.etag:
                part.unlink()
                raise hub_errors.wrong_content(file.name, file.etag, found)
            beginning.sync()
        put_in_place(part, blob)

    def check_stopped(self) -> None:
        """Return if the download is to go on.

        Raises:
            DownloadStoppedError: it is not.
        """
        if self._stopped():
            raise hub_errors.stopped(self._repo)

    def _fill(self, part: "_Part", on_bytes: Callable[[int], None]) -> None:
        """Fetch until the part has the file's size; attempts that bring nothing are counted."""
        failures = 0
        while part.missing_bytes:
            before = part.size_bytes
            try:
                self._attempt(part, on_bytes)
            except _Again as again:
                brought = part.size_bytes - before
                failures = 1 if brought >= self._patience.slow_bytes else failures + 1
                if failures >= self._patience.attempts:
                    raise again.error from again
                self._pause(failures, again.after_seconds)

    def _attempt(self, part: "_Part", on_bytes: Callable[[int], None]) -> None:
        """Add what one answer brings to the part.

        Raises:
            _Again: less came than is missing, for a reason that may pass.
        """
        self.check_stopped()
        url = file_url(self._repo, self._commit, part.file.name)
        headers = {"Range": f"bytes={part.size_bytes}-"} if part.size_bytes else {}
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                if self._begins_where_asked(response, part):
                    on_bytes(part.size_bytes)
                    self._receive(response, part, on_bytes)
        except (httpx.DecodingError, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise hub_errors.no_answer(error, endpoint()) from error
        except httpx.HTTPError as error:
            raise _Again(hub_errors.no_answer(error, endpoint())) from error
        except httpx.InvalidURL as error:
            raise hub_errors.no_answer(error, endpoint()) from error
        if part.missing_bytes:
            cut = httpx.RemoteProtocolError("the file ended early")
            raise _Again(hub_errors.no_answer(cut, endpoint()))

    def _begins_where_asked(self, response: httpx.Response, part: "_Part") -> bool:
        """Return whether the answer's bytes can be added, after a fresh start if need be.

        False means that the server has nothing from there on: the part was no part of the file.
        """
        status = response.status_code
        if status in _RETRIED:
            error = hub_errors.refusal(
                status, response.headers, self._repo, self._commit, endpoint()
            )
            raise _Again(error, hub_errors.retry_after_seconds(response.headers))
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part.size_bytes:
            part.start_again()
            return False
        if response.is_error:
            raise hub_errors.refusal(status, response.headers, self._repo, self._commit, endpoint())
        refuse_packed(response.headers)
        start = f"bytes {part.size_bytes}-"
        as_asked = response.headers.get("Content-Range", "").lower().startswith(start)
        if part.size_bytes and not (status == httpx.codes.PARTIAL_CONTENT and as_asked):
            # The whole file comes, or another piece of it than was asked for.
            part.start_again()
            return status == httpx.codes.OK
        return True

    def _receive(
        self, response: httpx.Response, part: "_Part", on_bytes: Callable[[int], None]
    ) -> None:
        began, since = time.monotonic(), 0
        for piece in response.iter_raw():
            self.check_stopped()
            part.add(piece[: part.missing_bytes + 1])
            if part.missing_bytes < 0:
                part.start_again()
                raise hub_errors.bad_answer(
                    endpoint(), f"{part.file.name} has more bytes than it should"
                )
            on_bytes(part.size_bytes)
            since += len(piece)
            now = time.monotonic()
            if now - began >= self._patience.slow_seconds:
                if since < self._patience.slow_bytes:
                    raise _Again(hub_errors.too_slow(endpoint()))
                began, since = now, 0

    def _pause(self, failures: int, asked_seconds: float | None) -> None:
        """Leave the server alone for a while, longer with every failure, and as it asks."""
        seconds = self._patience.pause_seconds * 2 ** (failures - 1)
        seconds = min(max(seconds, asked_seconds or 0), self._patience.longest_pause_seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check_stopped()
            time.sleep(min(left, 0.2))


class _Part:
    """The beginning of a file on disk, with its digest so far."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.file = file
        self.size_bytes = 0
        self._path = path
        self._digest = self._new_digest()
        self._handle: BufferedRandom

    def __enter__(self) -> "_Part":
        # Only ever added to: whatever ends this process, the file is a beginning.
        self._handle = self._path.open("a+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    @property
    def missing_bytes(self) -> int:
        return self.file.size_bytes - self.size_bytes

    def read_what_is_there(
        self, check_stopped: Callable[[], None], on_bytes: Callable[[int], None]
    ) -> bool:
        """Take over what an earlier download has left; return whether that is anything.

        `on_bytes` takes the whole of it all along: it is read for its digest only.
        """
        left_bytes = self._handle.seek(0, os.SEEK_END)
        if left_bytes > self.file.size_bytes:
            self.start_again()
        self._handle.seek(0)
        while chunk := self._handle.read(_CHUNK_BYTES):
            check_stopped()
            on_bytes(left_bytes)
            self._digest.update(chunk)
            self.size_bytes += len(chunk)
        return self.size_bytes > 0

    def add(self, piece: bytes) -> None:
        self._handle.write(piece)
        self._digest.update(piece)
        self.size_bytes += len(piece)

    def start_again(self) -> None:
        self._handle.seek(0)
        self._handle.truncate()
        self._digest = self._new_digest()
        self.size_bytes = 0

    def digest(self) -> str:
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Make the content durable."""
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def _new_digest(self) -> "hashlib._Hash":
        """Return the digest that the etag is of: sha256, or git's sha1 of a blob.

        Source: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        """
        if len(self.file.etag) == _SHA256_DIGITS:
            return hashlib.sha256()
        header = f"blob {self.file.size_bytes}\0".encode()
        return hashlib.sha1(header, usedforsecurity=False)
