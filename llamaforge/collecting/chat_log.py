"""Conversations with a run's model, kept as rows to train on, where a person says so.

One row for each conversation, in the JSON Lines that `data check` and `data review` take; the row
is written anew after each answer, so that nothing is lost when the program ends. Pairs of a better
and a worse answer go into a file of their own beside it, since training takes either kind.
"""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from llamaforge import paths
from llamaforge.data.records import canonical_json, source_name
from llamaforge.errors import InvalidFileError, LlamaForgeError, NotFoundError, RefusedError
from llamaforge.files import sync_folder
from llamaforge.safe_text import safe_line

_SUFFIX: Final = ".jsonl"
_PAIRS_SUFFIX: Final = ".pairs.jsonl"
_HEAD_BYTES: Final = 1 << 20
_SETTLING: Final = frozenset({"messages", "chosen"})
"""What a line of such a file has, one of them."""


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """A question and its answer."""

    question: str
    answer: str
    whole: bool = True
    """Whether the model ended the answer itself; only such answers are to be learned."""

    @property
    def is_learned(self) -> bool:
        """Whether there is something to learn in it."""
        return self.whole and bool(self.answer.strip())


def usual_place(run: str) -> Path:
    """Return where conversations with `run` are kept if no other place is named."""
    return paths.home() / "chats" / f"{run}{_SUFFIX}"


class ChatLog:
    """A file of conversations that is being added to, and the file of pairs beside it.

    A context manager; while it is open no other process can add to the same file.

    Args:
        path: its name ends in `.jsonl`; it is made where it is not there, for its owner alone.
        run: the run that is talked to.
        arm: whose answers are kept: `tuned`, or `base`.

    Entering raises:
        InvalidFileError: it is something else than a file of such rows (`not_a_chat_log`).
        NotFoundError: there is no such folder (`no_folder`).
        RefusedError: another conversation is being kept there (`chat_log_locked`).
        LlamaForgeError: it cannot be written (`cannot_write`).
    """

    def __init__(self, path: Path, run: str, arm: str = "tuned") -> None:
        self.path = path
        self.pairs_path = path.with_name(path.name.removesuffix(_SUFFIX) + _PAIRS_SUFFIX)
        self._about = {"run": run, "arm": arm}
        self._talks = _LastLine(path)
        self._pairs = _LastLine(self.pairs_path)
        self.conversations = 0
        """Kept so far, by this log."""
        self.pairs = 0
        self._has_talk = False
        self.has_pair = False
        """Whether the newest question has a pair, which can be taken back still."""

    def open(self) -> None:
        """Open the file; see the class for what it raises."""
        self._talks.open()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._talks.close()
        self._pairs.close()

    def begin(self) -> None:
        """Begin another conversation: what was kept stays."""
        self._talks.settle()
        self._has_talk = False
        self.next_question()

    def next_question(self) -> None:
        """Note that another question was asked: a pair that was kept stays."""
        self._pairs.settle()
        self.has_pair = False

    def keep(self, turns: Sequence[KeptTurn]) -> bool:
        """Write the whole conversation as it is now; return whether there is anything to learn.

        Raises:
            LlamaForgeError: it cannot be written.
        """
        if not any(turn.is_learned for turn in turns):
            return False
        self._talks.put({"messages": _messages(turns)} | self._about)
        self.conversations += not self._has_talk
        self._has_talk = True
        return True

    def prefer(self, before: Sequence[KeptTurn], better: KeptTurn, worse: KeptTurn) -> None:
        """Keep two answers to the newest question as a pair, in place of one that was kept before.

        Args:
            before: the conversation in front of the question, the same for both answers.
            better: the question with the answer that is to be preferred.
            worse: the same question with the other one.

        Raises:
            RefusedError: they make no pair (`no_pair`).
            LlamaForgeError: it cannot be written.
        """
        if not better.is_learned or not worse.answer.strip():
            raise _no_pair("One of the answers is empty or was cut off.")
        if better.answer.strip() == worse.answer.strip():
            raise _no_pair("Both answers are the same.")
        if not self._pairs.is_open:
            self._pairs.open()
        self._pairs.put(
            {
                "prompt": [*_messages(before), _message("user", better.question)],
                "chosen": [_message("assistant", better.answer)],
                "rejected": [_message("assistant", worse.answer)],
                "run": self._about["run"],
            }
        )
        self.pairs += not self.has_pair
        self.has_pair = True

    def take_back(self) -> None:
        """Remove the pair of the newest question, if there is one.

        Raises:
            LlamaForgeError: it cannot be written.
        """
        if self.has_pair:
            self._pairs.put(None)
            self.pairs -= 1
            self.has_pair = False


class _LastLine:
    """A file to whose end a line is added that may still change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1
        self._is_new = False
        self._start = 0
        """Where the line in work begins."""
        self._line = b""
        """The line in work as it was written last."""

    @property
    def is_open(self) -> bool:
        return self._handle >= 0

    def open(self) -> None:
        """Open the file, alone.

        Raises:
            as entering `ChatLog`.
        """
        if not self._path.name.endswith(_SUFFIX):
            raise InvalidFileError(
                f"{self._shown} does not end in {_SUFFIX}.",
                f"Name a file such as talks{_SUFFIX}.",
                code="not_a_chat_log",
            )
        self._is_new = not self._path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._handle = os.open(self._path, flags, 0o600)
            self._require_rows()
            self._start = self._end_of_lines()
            sync_folder(self._path.parent)
        except FileNotFoundError:
            raise NotFoundError(
                f"There is no folder {safe_line(source_name(self._path.parent))}.",
                "Make it first, or name another place.",
                code="no_folder",
            ) from None
        except OSError as error:
            self.close()
            if error.errno in {errno.EISDIR, errno.ENXIO}:
                raise self._no_log() from None
            raise self._failed(error) from error
        except LlamaForgeError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; one that was made here and holds nothing is removed."""
        if self._handle < 0:
            return
        if self._is_new and os.fstat(self._handle).st_size == 0:
            with suppress(OSError):
                self._path.unlink()
        os.close(self._handle)
        self._handle = -1

    def settle(self) -> None:
        """Leave the line in work as it is: the next one follows it."""
        if self.is_open:
            self._start = os.fstat(self._handle).st_size
            self._line = b""

    def put(self, body: dict[str, Any] | None) -> None:
        """Write the line in work, in place of what it was; with None there is none any more.

        Raises:
            LlamaForgeError: it cannot be written; it is as it was then.
        """
        line = b"" if body is None else canonical_json(body) + b"\n"
        try:
            self._write(line)
        except OSError as error:
            self._restore()
            raise self._failed(error) from error
        self._line = line

    def _write(self, line: bytes) -> None:
        # Over what was there, and cut to length then: a conversation only ever gets longer.
        rest, place = memoryview(line), self._start
        while rest:
            written = os.pwrite(self._handle, rest, place)
            rest, place = rest[written:], place + written
        os.ftruncate(self._handle, place)
        os.fsync(self._handle)

    def _restore(self) -> None:
        """Write the line again as it was: on a full disk, there is still room for it."""
        try:
            self._write(self._line)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, self._start)  # half a line is no row

    def _require_rows(self) -> None:
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            raise self._no_log()
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"Another conversation is being kept in {self._shown}.",
                "End it first, or name another file.",
                code="chat_log_locked",
            ) from None
        head = os.pread(self._handle, _HEAD_BYTES, 0)
        first, line_end, _ = head.partition(b"\n")
        if not head or (not line_end and len(head) == _HEAD_BYTES):
            return
        try:
            body = json.loads(first)
        except (ValueError, RecursionError):
            raise self._no_log() from None
        if not isinstance(body, dict) or not _SETTLING & body.keys():
            raise self._no_log()

    def _end_of_lines(self) -> int:
        """Return where the next line begins; a last line without an end gets one."""
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            size += os.pwrite(self._handle, b"\n", size)
        return size

    @property
    def _shown(self) -> str:
        return safe_line(source_name(self._path))

    def _no_log(self) -> InvalidFileError:
        return InvalidFileError(
            f"{self._shown} is something else than a file of conversations.",
            "Name another file: it is made where it is not there.",
            code="not_a_chat_log",
        )

    def _failed(self, error: OSError) -> LlamaForgeError:
        return LlamaForgeError(
            f"{self._shown} cannot be written: {error.strerror or 'the system refused'}.",
            "Free some space or name another place; what is in it is kept.",
            code="cannot_write",
        )


def _messages(turns: Sequence[KeptTurn]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for turn in turns:
        answer = _message("assistant", turn.answer)
        if not turn.is_learned:
            answer["weight"] = 0  # as in OpenAI's files: read, and not learned
        made += [_message("user", turn.question), answer]
    return made


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text.encode("utf-8", "replace").decode()}


def _no_pair(reason: str) -> RefusedError:
    return RefusedError(
        reason, "Ask something else, and say which answer is better.", code="no_pair"
    )
