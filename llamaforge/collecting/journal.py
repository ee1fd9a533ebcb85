"""What was made so far, on disk before anything else happens: an append-only file of results.

Each line holds one result under a key. Whatever moment a process dies at, what has a line is not
made again. Only keys and places are in memory; the results themselves are read when needed.
"""

import fcntl
import hashlib
import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from llamaforge.data.containers import MAX_ROW_BYTES
from llamaforge.data.records import canonical_json, source_name
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.files import sync_folder
from llamaforge.safe_text import safe_line

VERSION: Final = 1
_MAX_LINE_BYTES: Final = 4 * MAX_ROW_BYTES  # an answer of 64 MiB would have been refused before


class JournalClosedError(Exception):
    """A result came after the journal was closed: the work was interrupted."""


def key_of(*parts: Any) -> str:
    """Return 32 hexadecimal digits that stand for these JSON values: 128 bits of their sha256."""
    return hashlib.sha256(canonical_json(list(parts))).hexdigest()[:32]


class WorkJournal:
    """The results of one piece of work; a context manager that keeps other processes out.

    All methods may be called from several threads.

    Args:
        path: the file; its first line names the settings that the results were made with.
        kind: what is made: a journal of another kind is refused.
        settings: JSON values by name that change what a result is.
        restart: throw away what is there.

    Entering raises:
        RefusedError: another process works on it (`journal_locked`), or it was begun with other
            settings (`other_settings`).
        InvalidFileError: the file is there and is no such journal.
        LlamaForgeError: the system does not let it be written (`cannot_write`).
    """

    def __init__(
        self, path: Path, kind: str, settings: dict[str, Any], *, restart: bool = False
    ) -> None:
        self._path = path
        self._kind = kind
        self._settings = settings
        self._restart = restart
        self._lock = threading.Lock()
        self._places: dict[bytes, tuple[int, int]] = {}
        self._handle = -1
        self._size = 0

    def __enter__(self) -> Self:
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._open()
        except OSError as error:
            self._close()
            raise self._failed(error) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return bytes.fromhex(key) in self._places

    def __len__(self) -> int:
        with self._lock:
            return len(self._places)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the newest result under `key`, or None."""
        with self._lock:
            place = self._places.get(bytes.fromhex(key))
            if place is None or self._handle < 0:
                return None
            line = os.pread(self._handle, place[1], place[0])
        body: dict[str, Any] = json.loads(line)["result"]
        return body

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Append a result and wait until the disk has it.

        Raises:
            JournalClosedError: see there.
            LlamaForgeError: it cannot be written.
        """
        line = canonical_json({"key": key, "result": result}) + b"\n"
        with self._lock:
            if self._handle < 0:
                raise JournalClosedError
            try:
                place = self._append(line)
            except OSError as error:
                raise self._failed(error) from error
            self._places[bytes.fromhex(key)] = place

    def _append(self, line: bytes) -> tuple[int, int]:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        os.fsync(self._handle)
        place = (self._size, len(line))
        self._size += len(line)
        return place

    def _open(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"Another process is at work on {self._shown}.",
                "Wait until it is done, or stop it.",
                code="journal_locked",
            ) from None
        if self._restart:
            os.ftruncate(self._handle, 0)
        self._read()
        if self._size == 0:
            head = {"v": VERSION, "kind": self._kind, "settings": self._settings}
            self._append(canonical_json(head) + b"\n")
            sync_folder(self._path.parent)

    def _read(self) -> None:
        """Take in the keys of what is there; a torn last line is cut off."""
        whole = 0
        with os.fdopen(os.dup(self._handle), "rb") as file:
            file.seek(0)
            head = file.readline(_MAX_LINE_BYTES)
            if head.endswith(b"\n"):
                self._require_head(head)
                whole = len(head)
                while (line := file.readline(_MAX_LINE_BYTES)).endswith(b"\n"):
                    self._note(line, whole)
                    whole += len(line)
            elif head and not head.startswith(b'{"kind":'):
                raise self._invalid("is no journal of this program")
        os.ftruncate(self._handle, whole)
        self._size = whole

    def _note(self, line: bytes, at: int) -> None:
        try:
            body = json.loads(line)
            key = bytes.fromhex(body["key"])
            if not isinstance(body["result"], dict):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._invalid(f"is damaged at byte {at:,}") from None
        self._places[key] = (at, len(line))

    def _require_head(self, line: bytes) -> None:
        try:
            head = json.loads(line)
            kind, settings, version = head["kind"], dict(head["settings"]), head["v"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._invalid("is no journal of this program") from None
        if version != VERSION or kind != self._kind:
            raise self._invalid(f"is not of this version or not made by {self._kind}")
        wanted = json.loads(canonical_json(self._settings))
        other = sorted(
            name for name in {*settings, *wanted} if settings.get(name) != wanted.get(name)
        )
        if other:
            names = ", ".join(safe_line(name, limit=40) for name in other)
            raise RefusedError(
                f"What {self._shown} holds was made with other settings: {names}.",
                "Give the same settings to go on, name another file with --out, or say --force to"
                " throw it away and begin anew.",
                code="other_settings",
            )

    def _close(self) -> None:
        with self._lock:
            if self._handle >= 0:
                os.close(self._handle)
            self._handle = -1

    @property
    def _shown(self) -> str:
        return safe_line(source_name(self._path))

    def _invalid(self, problem: str) -> InvalidFileError:
        return InvalidFileError(
            f"{self._shown} {problem}.",
            "Move it away, or name another file with --out.",
            code="invalid_journal",
        )

    def _failed(self, error: OSError) -> LlamaForgeError:
        return LlamaForgeError(
            f"{self._shown} cannot be written: {error.strerror or 'the system refused'}.",
            "Free some space or name another place; what is in it is kept.",
            code="cannot_write",
        )
