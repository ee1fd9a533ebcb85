"""One piece of work on a file: its journal beside it, its progress, and the file itself."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llamaforge.collecting.answers import Answer, Asking, UnansweredError
from llamaforge.collecting.crew import work_on
from llamaforge.collecting.journal import WorkJournal, key_of
from llamaforge.collecting.patience import PatientTeacher
from llamaforge.collecting.prompts import MAX_PROMPT_CHARACTERS, Prompt
from llamaforge.data.containers import reading
from llamaforge.data.records import Message, Rejection, source_name
from llamaforge.data.row_writer import RowWriter, require_free
from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.files import sha256_of
from llamaforge.safe_text import safe_line

JOURNAL_SUFFIX: Final = ".journal.jsonl"
_WRITTEN: Final = key_of("the file as it was written")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is."""

    done: int
    """Finished tasks, those of earlier sessions included."""
    total: int
    failed: int
    """Tasks of this session that got no usable answer."""
    answers: int
    """Answers that came in this session."""
    tokens: int
    """Their tokens, as far as the server counts them."""
    seconds: float
    """How long this session has taken."""
    seconds_left: float | None
    """None while nothing is known."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what happens; all are called in the main thread."""

    on_started: Callable[[Progress], None] = lambda _: None
    on_progress: Callable[[Progress], None] = lambda _: None
    on_failed: Callable[[Prompt, str], None] = lambda *_: None
    on_rejected: Callable[[Rejection], None] = lambda _: None
    """A row that is no prompt."""


@dataclass(slots=True)
class Counts:
    """What a pass over the prompts found."""

    prompts: int = 0
    rejected: int = 0
    repeated: int = 0
    """Prompts that an earlier one is equal to: they are asked once."""
    first_rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to ask about a prompt."""

    key: str
    prompt: Prompt
    number: int = 0
    """Which answer to the same prompt, from 0."""


@dataclass(slots=True)
class Tally:
    """What came of a session, counted by all its threads."""

    answers: int = 0
    tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, answer: Answer) -> None:
        """Count one answer."""
        with self._lock:
            self.answers += 1
            self.tokens += answer.tokens


def journal_path(out: Path) -> Path:
    """Return where the journal of the work on `out` lies."""
    return out.with_name(out.name + JOURNAL_SUFFIX)


@contextlib.contextmanager
def open_work(
    out: Path, kind: str, settings: dict[str, Any], *, force: bool
) -> Iterator[WorkJournal]:
    """Yield the journal of the work on `out`, begun or gone on with.

    Raises:
        InvalidFileError: `out` is there and is not what this work has written (`exists`).
        RefusedError, NotFoundError, LlamaForgeError: as `WorkJournal` and `require_free`.
    """
    path = journal_path(out)
    require_free(out, force=force or path.exists())
    with WorkJournal(path, kind, settings, restart=force) as journal:
        if force and out.exists():
            # Noted before anything is made: to go on with this work shall not need --force again.
            with reading(out):
                journal.add(_WRITTEN, {"sha256": [sha256_of(out)]})
        written = journal.get(_WRITTEN)
        if not force and out.exists() and not _is_ours(out, written):
            raise InvalidFileError(
                f"{safe_line(source_name(out))} was changed since it was written here.",
                "Move it away to go on, or say --force to throw it and its journal away.",
                code="exists",
            )
        yield journal


def _is_ours(out: Path, written: dict[str, Any] | None) -> bool:
    if written is None:
        return False
    with reading(out):
        # Between putting the file in place and noting so a process may have died: such a file
        # is told by the digest that was noted before.
        return sha256_of(out) in written.get("sha256", [])


def write_out(out: Path, journal: WorkJournal, rows: Iterable[dict[str, Any]]) -> int:
    """Replace `out` by `rows`, and return how many they are; without any, it is left alone.

    Raises:
        LlamaForgeError: it cannot be written.
        RowError: a row is too long.
    """
    with RowWriter(out) as writer:
        for row in rows:
            writer.write(row)
        if not writer.rows:
            return 0
        new = writer.finish()
        before = journal.get(_WRITTEN) or {}
        if new not in before.get("sha256", []):
            journal.add(_WRITTEN, {"sha256": [*before.get("sha256", [])[-1:], new]})
        writer.commit()
        return writer.rows


def carry_out(
    tasks: Callable[[], Iterator[Task]],
    is_done: Callable[[Task], bool],
    do: Callable[[Task], None],
    *,
    concurrency: int,
    stop: threading.Event,
    tally: Tally,
    watch: Watch,
) -> int:
    """Let `do` work on each task that is not done, and return how many failed.

    Raises:
        LlamaForgeError, KeyboardInterrupt: as `work_on`.
    """
    total = done = 0
    for task in tasks():
        total += 1
        done += is_done(task)
    failed = 0
    before, began = done, time.monotonic()

    def progress() -> Progress:
        seconds = time.monotonic() - began
        ended = done - before + failed
        left = total - before - ended
        return Progress(
            done=done,
            total=total,
            failed=failed,
            answers=tally.answers,
            tokens=tally.tokens,
            seconds=seconds,
            seconds_left=seconds / ended * left if ended else None,
        )

    def on_done(task: Task, problem: str | None) -> None:
        nonlocal done, failed
        if problem is None:
            done += 1
        else:
            failed += 1
            watch.on_failed(task.prompt, problem)
        watch.on_progress(progress())

    watch.on_started(progress())
    work_on(
        (task for task in tasks() if not is_done(task)),
        do,
        concurrency=concurrency,
        stop=stop,
        on_done=on_done,
        on_tick=lambda: watch.on_progress(progress()),
    )
    return failed


def distinct(
    prompts: Iterable[Prompt | Rejection],
    counts: Counts,
    on_rejected: Callable[[Rejection], None] = lambda _: None,
) -> Iterator[tuple[str, Prompt]]:
    """Yield each prompt that no earlier one is equal to, with its key; count all."""
    seen: set[bytes] = set()
    for item in prompts:
        if isinstance(item, Rejection):
            counts.rejected += 1
            counts.first_rejection = counts.first_rejection or item
            on_rejected(item)
            continue
        counts.prompts += 1
        key = prompt_hash(item.messages)
        if bytes.fromhex(key) in seen:
            counts.repeated += 1
            continue
        seen.add(bytes.fromhex(key))
        yield key, item


def prompt_hash(messages: tuple[Message, ...]) -> str:
    """Return the key of a prompt: equal for equal messages."""
    return key_of("prompt", [[turn.role, turn.content] for turn in messages])


def count_prompts(prompts: Iterable[Prompt | Rejection], watch: Watch) -> Counts:
    """Return what a pass over the prompts finds; rows that are none are told.

    Raises:
        RefusedError: there is no prompt (`no_prompts`).
        NotFoundError, RefusedError, InvalidFileError: a source cannot be read.
    """
    counts = Counts()
    for _ in distinct(prompts, counts, watch.on_rejected):
        pass
    if counts.prompts:
        return counts
    first = counts.first_rejection
    if first is None:
        raise RefusedError("There are no prompts.", "Name a file with some.", code="no_prompts")
    where = f"{safe_line(first.source)} row {first.row:,}: {first.reason}"
    raise RefusedError(
        f"No row holds a prompt; the first: {where}.",
        "Mend the rows, or name the key that holds the prompt with --column.",
        code="no_prompts",
    )


def answer_to_keep(
    teacher: PatientTeacher, messages: tuple[Message, ...], asking: Asking, tally: Tally
) -> Answer:
    """Return an answer that is neither empty nor endless.

    Raises:
        UnansweredError: it is, or there is none.
    """
    answer = teacher.ask(messages, asking)
    tally.take(answer)
    if not answer.text.strip() and not answer.was_cut:
        raise UnansweredError("the answer is empty")
    if len(answer.text) > MAX_PROMPT_CHARACTERS:
        raise UnansweredError(f"the answer is longer than {MAX_PROMPT_CHARACTERS:,} characters")
    return answer
