"""The journal of changes outside the run directory: intent, act, verify, done, each on disk.

A line is written and synced before the next thing happens. Whatever moment a process dies at,
the journal says which change was under way and what was there before it.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamaforge.errors import LlamaForgeError
from llamaforge.files import sync_folder

JOURNAL_VERSION: Final = 1


class Change:
    """One change that is under way."""

    def __init__(self, journal: "Journal", number: int, kind: str) -> None:
        self._journal = journal
        self._number = number
        self._kind = kind

    def acted(self, **facts: Any) -> None:
        """Note that the change was asked for, and what came back."""
        self.note("act", **facts)

    def verified(self, **facts: Any) -> None:
        """Note what was read back afterwards."""
        self.note("verify", **facts)

    def note(self, phase: str, **facts: Any) -> None:
        """Append the line of one phase and wait until the disk has it."""
        self._journal.append(
            {"id": self._number, "change": self._kind, "phase": phase} | facts,
        )


class Journal:
    """The only writer of one `journal.jsonl`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 1 + max((entry["id"] for entry in read_journal(path)), default=0)

    @contextmanager
    def change(self, kind: str, **facts: Any) -> Iterator[Change]:
        """Write the intent of a change, and `done` or `failed` when its block ends.

        `facts` must hold what a replay needs: where the change is made, and what was there before.
        """
        change = Change(self, self._next, kind)
        self._next += 1
        change.note("intent", **facts)
        try:
            yield change
        except LlamaForgeError as error:
            change.note("failed", code=error.code, message=error.message)
            raise
        except BaseException as error:
            change.note("failed", code="interrupted", message=type(error).__name__)
            raise
        change.note("done")

    def append(self, body: dict[str, Any]) -> None:
        """Append one line, durably."""
        body = {"v": JOURNAL_VERSION, "time": datetime.now(UTC).isoformat()} | body
        line = json.dumps(body, ensure_ascii=False, allow_nan=False)
        fresh = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "a+b") as file:
            file.write(_line_start(file.fileno()) + line.encode("utf-8", "replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync_folder(self._path.parent)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal in their order; a torn line is passed over."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    entries: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            body = json.loads(line)
        except ValueError:
            continue
        if isinstance(body, dict) and isinstance(body.get("id"), int) and "phase" in body:
            entries.append(body)
    return entries


def _line_start(handle: int) -> bytes:
    """Return what must precede a new line: its own line break where the last one was torn."""
    size = os.fstat(handle).st_size
    return b"\n" if size and os.pread(handle, 1, size - 1) != b"\n" else b""
