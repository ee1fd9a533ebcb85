"""What was read of blobs, kept: a blob is named by its content, so that is read once.

A SQLite file under the program's home, in `cache/`. It is a help and never a need: what is wrong
with it is passed over, and the blobs are read again.
"""

import contextlib
import hashlib
import json
import sqlite3
import time
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from llamaforge import gguf, paths
from llamaforge.catalog.blob import BlobFacts
from llamaforge.errors import LlamaForgeError, RefusedError

_MAX_ROWS: Final = 20_000
_MAX_BODY_CHARACTERS: Final = 64 * 1024
_BUSY_SECONDS: Final = 0.5
_WRITTEN_AT_ONCE: Final = 50
_KEPT_SECONDS: Final = 30 * 24 * 3600.0
"""How long the index of another version of the program stays after its last use."""
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS facts (
    digest TEXT NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (digest, size, modified_ns))
"""

Read = BlobFacts | LlamaForgeError
"""What the header says, or why it says nothing."""


class FactsIndex:
    """The facts of blobs by digest, size and time of change; a context manager.

    Several processes may use one index at the same time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the index in `folder`, by default the one of the program's home."""
        self._folder = paths.home() / "cache" if folder is None else folder
        self._database = self._open()
        self._new: list[tuple[str, int, int, str]] = []

    def __enter__(self) -> "FactsIndex":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def get(self, digest: str, size: int, modified_ns: int) -> Read | None:
        """Return what was kept of a blob; None where nothing was, or nothing that makes sense."""
        if self._database is None:
            return None
        try:
            row = self._database.execute(
                "SELECT body FROM facts WHERE digest = ? AND size = ? AND modified_ns = ?",
                (digest, size, modified_ns),
            ).fetchone()
            return None if row is None else _decoded(json.loads(row[0]))
        except sqlite3.Error:
            self._give_up()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        return None

    def put(self, digest: str, size: int, modified_ns: int, read: Read) -> None:
        """Keep what was read of a blob."""
        body = json.dumps(_encoded(read))
        if self._database is not None and len(body) <= _MAX_BODY_CHARACTERS:
            self._new.append((digest, size, modified_ns, body))
            if len(self._new) >= _WRITTEN_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Write what is new."""
        new, self._new = self._new, []
        if self._database is None or not new:
            return
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?,?,?,?)", new)
                self._database.execute(
                    "DELETE FROM facts WHERE rowid <= (SELECT max(rowid) FROM facts) - ?",
                    (_MAX_ROWS,),
                )
        except sqlite3.OperationalError:
            pass  # another process writes for long, or the disk is full: read again next time
        except sqlite3.Error:
            self._give_up()

    def close(self) -> None:
        """Write what is new, and close the file."""
        self.flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection | None:
        path = self._folder / f"blobs-{_generation()}.sqlite"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                self._remove_old(path)
            try:
                return _connected(path)
            except sqlite3.OperationalError:
                return None  # locked, or on a disk that cannot lock
            except sqlite3.DatabaseError:  # no SQLite file any more: begin anew
                path.unlink(missing_ok=True)
                return _connected(path)
        except (OSError, sqlite3.Error):
            return None

    def _remove_old(self, kept: Path) -> None:
        oldest = time.time() - _KEPT_SECONDS
        for path in self._folder.glob("blobs-*.sqlite"):
            with contextlib.suppress(OSError):
                if path != kept and path.stat().st_mtime < oldest:
                    path.unlink()

    def _give_up(self) -> None:
        """Remove a file that turned out to be damaged; from now on nothing is kept."""
        if self._database is not None:
            self._database.close()
            self._database = None
            with contextlib.suppress(OSError):
                (self._folder / f"blobs-{_generation()}.sqlite").unlink()


def _connected(path: Path) -> sqlite3.Connection:
    # A list may be read in another thread than the one that opened it; never in two at once.
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")  # a lost index is only read again
        database.execute(_TABLE)
        with contextlib.suppress(OSError):
            path.chmod(0o600)
    except BaseException:
        database.close()
        raise
    return database


@cache
def _generation() -> str:
    """Return a word that changes with the code that reads headers, and so with its verdicts."""
    digest = hashlib.sha256()
    room = Path(gguf.__file__).parent
    for path in [*sorted(room.rglob("*.py")), Path(__file__).with_name("blob.py")]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _encoded(read: Read) -> dict[str, Any]:
    if isinstance(read, LlamaForgeError):
        return {"error": _words(read)}
    body = {field.name: getattr(read, field.name) for field in fields(read)}
    return {"facts": body | {"untrainable": read.untrainable and _words(read.untrainable)}}


def _words(error: LlamaForgeError) -> list[str]:
    return [error.message, error.hint, error.code]


def _decoded(body: dict[str, Any]) -> Read:
    """Return what `_encoded` has packed; anything else raises one of the errors of indexing."""
    if "error" in body:
        message, hint, code = map(_text, body["error"])
        return RefusedError(message, hint, code=code)
    values = dict(body["facts"])
    if values.keys() != {field.name for field in fields(BlobFacts)}:
        raise ValueError("fields that are not known")
    untrainable = values["untrainable"]
    if untrainable is not None:
        message, hint, code = map(_text, untrainable)
        values["untrainable"] = RefusedError(message, hint, code=code)
    for key in ("architecture", "quantization"):
        _text(values[key])
    for key in ("parameter_count", "context_length", "vocab_size"):
        _number(values[key])
    for key in ("abilities", "template_abilities"):
        values[key] = tuple(map(_text, values[key]))
    for kind, count in values["tensor_types"].items():
        _text(kind)
        _number(count)
    for value in values["details"].values():
        if not isinstance(value, str | int | float):
            raise TypeError("a detail that is no scalar")
    return BlobFacts(**values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("no number")
    return value
