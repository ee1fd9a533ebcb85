"""A person's review of rows: decisions, undo and saving, without a word on how people are asked.

Every decision is on disk before the next row is shown: one line in `FILE.review.jsonl`, which is
only ever appended to. What stands in it, read from the beginning, is the state.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from llamaforge.data.convert import Rules, row_in
from llamaforge.data.formats import read_records
from llamaforge.data.records import (
    Message,
    Record,
    RowError,
    canonical_json,
    record_id,
    source_name,
)
from llamaforge.data.row_writer import RowWriter
from llamaforge.data.tool_calls import offered
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.safe_text import safe_line

REVIEW_SUFFIX: Final = ".review.jsonl"
MAX_LABEL_CHARACTERS: Final = 200
_MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_LABEL: Final = "label"

Verdict = Literal["accept", "edit", "reject", "label"]


@dataclass(frozen=True, slots=True)
class Texts:
    """The parts of a row that can be edited."""

    messages: tuple[Message, ...]
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()


class _Turn(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    role: str
    content: str
    trained: bool = True
    calls: str = ""
    name: str = ""
    call_id: str = ""


class _Line(BaseModel):
    """One line of the file: a decision on a row, or that it is taken back."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    v: Literal[1] = 1
    row: int
    id: str
    decision: Literal["accept", "edit", "reject", "label", "undo"]
    label: str | None = None
    messages: list[_Turn] | None = None
    chosen: list[_Turn] | None = None
    rejected: list[_Turn] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one row."""

    verdict: Verdict
    """`label` is accepted as it is, with a label."""
    label: str = ""
    texts: Texts | None = None
    """Of an edit, what the row is from now on."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How far a review is; `rows` is always `decided + left`."""

    rows: int
    """Rows that can be reviewed."""
    unusable: int
    """Rows of the file that are none."""
    decided: int
    accepted: int
    edited: int
    rejected: int
    labelled: int
    left: int
    labels: dict[str, int]


class Review:
    """The review of one file; a context manager that keeps other reviews of it out.

    Entering raises:
        RefusedError: another review of the file is under way (`review_locked`).
        InvalidFileError: its decisions cannot be read (`invalid_review`).
        LlamaForgeError: they cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._review = path.with_name(path.name + REVIEW_SUFFIX)
        self._decisions: dict[tuple[int, str], Decision] = {}
        self._handle = -1
        self._rows: Iterator[Record] = iter(())

    def __enter__(self) -> Self:
        try:
            self._handle = os.open(self._review, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            self._close()
            raise RefusedError(
                f"Another review of {safe_line(source_name(self._path))} is under way.",
                "End it first.",
                code="review_locked",
            ) from None
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

    @property
    def file(self) -> Path:
        """Where the decisions are."""
        return self._review

    def next(self) -> Record | None:
        """Return the first row after the last one shown that is not decided; None at the end."""
        return next((row for row in self._rows if _key(row) not in self._decisions), None)

    def rewind(self) -> None:
        """Let `next` begin at the head of the file again."""
        self._rows = (
            row for row in read_records(self._path, want="any") if isinstance(row, Record)
        )

    def decide(self, row: Record, decision: Decision) -> None:
        """Save what was decided about a row.

        Raises:
            RowError: a label or an edited text cannot stand.
            LlamaForgeError: it cannot be written.
        """
        if decision.texts is not None:
            require_whole(decision.texts)
        if decision.verdict == _LABEL and not 0 < len(decision.label) <= MAX_LABEL_CHARACTERS:
            raise RowError(f"a label has 1 to {MAX_LABEL_CHARACTERS} characters")
        line: dict[str, Any] = {"decision": decision.verdict}
        if decision.label:
            line["label"] = decision.label
        if decision.texts is not None:
            line |= {
                name: [asdict(turn) for turn in turns]
                for name, turns in (
                    ("messages", decision.texts.messages),
                    ("chosen", decision.texts.chosen),
                    ("rejected", decision.texts.rejected),
                )
            }
        self._append(_key(row), line)
        self._decisions.pop(_key(row), None)  # the newest is last: undo goes by that order
        self._decisions[_key(row)] = decision

    def undo(self) -> int | None:
        """Take back the newest decision that stands, and return its row; None without any.

        `next` then begins at the head of the file again, and so at that row.
        """
        if not self._decisions:
            return None
        key = next(reversed(self._decisions))
        self._append(key, {"decision": "undo"})
        del self._decisions[key]
        self.rewind()
        return key[0]

    def summary(self) -> Summary:
        """Return how far the review is; the file is read for it.

        Decisions about rows that the file no longer has do not count.
        """
        verdicts: Counter[str] = Counter()
        labels: Counter[str] = Counter()
        rows = unusable = 0
        for item in read_records(self._path, want="any"):
            if not isinstance(item, Record):
                unusable += 1
                continue
            rows += 1
            decision = self._decisions.get(_key(item))
            if decision is not None:
                verdicts[decision.verdict] += 1
                if decision.label:
                    labels[decision.label] += 1
        decided = verdicts.total()
        return Summary(
            rows=rows,
            unusable=unusable,
            decided=decided,
            accepted=verdicts["accept"],
            edited=verdicts["edit"],
            rejected=verdicts["reject"],
            labelled=verdicts["label"],
            left=rows - decided,
            labels=dict(sorted(labels.items())),
        )

    def write_kept(self, out: Path) -> int:
        """Write the rows that were accepted, edited or labelled, and return how many.

        Pairs are written as `preference` rows and others as `chat`, a label into `meta.label`.
        Without any, no file is written.
        """
        with RowWriter(out) as writer:
            for item in read_records(self._path, want="any"):
                if isinstance(item, Record):
                    decision = self._decisions.get(_key(item))
                    if decision is not None and decision.verdict != "reject":
                        writer.write(_kept(item, decision))
            if writer.rows:
                writer.commit()
            return writer.rows

    def _read(self) -> None:
        with os.fdopen(os.dup(self._handle), "rb") as file:
            file.seek(0)
            whole = 0
            while (line := file.readline(_MAX_LINE_BYTES)).endswith(b"\n"):
                self._take(line, whole)
                whole += len(line)
        if line and not line.startswith(b'{"'):
            raise self._invalid(whole)
        os.ftruncate(self._handle, whole)  # a line that was torn when the power failed
        self.rewind()

    def _take(self, data: bytes, at: int) -> None:
        try:
            line = _Line.model_validate_json(data)
        except ValidationError:
            raise self._invalid(at) from None
        key = (line.row, line.id)
        # A decision that replaces another one is the newest: undo goes by that order.
        self._decisions.pop(key, None)
        if line.decision != "undo":
            self._decisions[key] = Decision(line.decision, line.label or "", _texts(line))

    def _append(self, key: tuple[int, str], body: dict[str, Any]) -> None:
        line = {"v": 1, "row": key[0], "id": key[1], **body}
        try:
            data = canonical_json(line) + b"\n"
        except UnicodeEncodeError:
            raise RowError("a text holds half a character (a lone surrogate)") from None
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except OSError as error:
            raise self._failed(error) from error

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def _invalid(self, at: int) -> InvalidFileError:
        return InvalidFileError(
            f"{safe_line(source_name(self._review))} is damaged at byte {at:,}.",
            "Mend that line, or move the file away to begin anew.",
            code="invalid_review",
        )

    def _failed(self, error: OSError) -> LlamaForgeError:
        return LlamaForgeError(
            f"{safe_line(source_name(self._review))} cannot be written:"
            f" {error.strerror or 'the system refused'}.",
            "Free some space or copy the data to a folder of yours.",
            code="cannot_write",
        )


def texts_of(row: Record) -> Texts:
    """Return the parts of a row that can be edited."""
    return Texts(row.messages, row.chosen, row.rejected)


def require_whole(texts: Texts) -> None:
    """Check that no question and no answer is empty.

    Raises:
        RowError: one is.
    """
    for turn in (*texts.messages, *texts.chosen, *texts.rejected):
        if turn.role in {"user", "assistant"} and not turn.words.strip():
            raise RowError(f"the text of {turn.role} is empty")


def _key(row: Record) -> tuple[int, str]:
    # Both: rows may move when the file is changed, and equal rows are different decisions.
    return row.row, row.id


def _texts(line: _Line) -> Texts | None:
    if line.messages is None:
        return None
    return Texts(_turns(line.messages), _turns(line.chosen or []), _turns(line.rejected or []))


def _turns(turns: list[_Turn]) -> tuple[Message, ...]:
    return tuple(Message(**turn.model_dump()) for turn in turns)


def _kept(row: Record, decision: Decision) -> dict[str, Any]:
    if decision.texts is not None:
        texts = decision.texts
        row = replace(
            row,
            id=record_id(texts.messages),
            messages=texts.messages,
            chosen=texts.chosen,
            rejected=texts.rejected,
        )
    if decision.label:
        row = replace(row, meta=row.meta | {"label": decision.label})
    fields, _ = row_in("preference" if row.chosen and row.rejected else "chat", row, Rules())
    return fields


_MARK: Final = "=== "


def editable(texts: Texts, nonce: str) -> str:
    """Return a row as text for an editor: each message below a line that says whose it is.

    `nonce` stands in these lines, so that no line of a message can be taken for one.
    """
    parts = [f"{_heading(where, turn, nonce)}\n{turn.content}\n" for where, turn in _all(texts)]
    return "".join(parts)


def edited(text: str, texts: Texts, nonce: str) -> Texts:
    """Return what an editor made of `editable(texts, nonce)`.

    A line break that editors put at the end of a message is dropped where it had none.

    Raises:
        RowError: a line that says whose a message is was changed, or a text is empty.
    """
    contents: list[str] = []
    headings = [_heading(where, turn, nonce) for where, turn in _all(texts)]
    # Editors of other systems end lines in their way; a row that does so itself is left alone.
    is_own = any("\r" in turn.content for _, turn in _all(texts))
    rest = text if is_own else text.replace("\r\n", "\n")
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if not rest.startswith(heading + "\n"):
            raise RowError("a line that begins with === was changed; these lines must stay")
        rest = rest[len(heading) + 1 :]
        if following is None:
            content, rest = rest, ""
        else:
            at = 0 if rest.startswith(following + "\n") else rest.find("\n" + following + "\n") + 1
            if at == 0 and not rest.startswith(following + "\n"):
                raise RowError("a line that begins with === was changed; these lines must stay")
            content, rest = rest[:at], rest[at:]
        contents.append(content.removesuffix("\n"))
    return _with_contents(texts, contents)


def with_answer(texts: Texts, answer: str) -> Texts:
    """Return the row with another last answer: of a pair, the chosen one.

    Raises:
        RowError: it is empty.
    """
    contents = [turn.content for _, turn in _all(texts)]
    contents[len(texts.messages) + len(texts.chosen) - 1] = answer
    return _with_contents(texts, contents)


def last_answer(texts: Texts) -> str:
    """Return the text that `with_answer` replaces."""
    return (texts.messages + texts.chosen)[-1].content


def _all(texts: Texts) -> list[tuple[str, Message]]:
    parts = (("", texts.messages), ("chosen ", texts.chosen), ("rejected ", texts.rejected))
    return [(where, turn) for where, turns in parts for turn in turns]


def _with_content(turn: Message, content: str) -> Message:
    """Return a message with another content; what it calls stays.

    Raises:
        RowError: it is the tools on offer, and the content is none of them.
    """
    if turn.role != "tools":
        return replace(turn, content=content)
    tools = offered({"tools": content})
    if not tools:
        raise RowError("tools is empty")
    return tools[0]


def _heading(where: str, turn: Message, nonce: str) -> str:
    return f"{_MARK}{where}{turn.role} {nonce} ==="


def _with_contents(texts: Texts, contents: list[str]) -> Texts:
    turns = [
        _with_content(turn, content)
        for (_, turn), content in zip(_all(texts), contents, strict=True)
    ]
    one = len(texts.messages)
    two = one + len(texts.chosen)
    found = Texts(tuple(turns[:one]), tuple(turns[one:two]), tuple(turns[two:]))
    require_whole(found)
    return found
