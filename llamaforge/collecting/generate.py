"""Rows made by a model: its answers to prompts, or questions with answers about documents.

Every answer is in the journal before the next is asked for, so work that was interrupted goes on
where it was; the file of rows is made from the journal, in the order of the prompts.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llamaforge.collecting.answers import Asking, Teacher, UnansweredError
from llamaforge.collecting.documents import (
    PAIRS_SCHEMA,
    Cut,
    pairs_prompt,
    read_pairs,
    read_pieces,
)
from llamaforge.collecting.journal import WorkJournal, key_of
from llamaforge.collecting.patience import Pace, PatientTeacher, Retries
from llamaforge.collecting.prompts import Prompt, read_prompts
from llamaforge.collecting.session import (
    Counts,
    Tally,
    Task,
    Watch,
    answer_to_keep,
    carry_out,
    count_prompts,
    distinct,
    open_work,
    write_out,
)
from llamaforge.data.records import Message, Rejection
from llamaforge.errors import RefusedError

KIND: Final = "data generate"
_PARSE_ATTEMPTS: Final = 3
_RETRIES: Final = Retries()


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What is asked for."""

    sources: tuple[Path, ...]
    out: Path
    system: str = ""
    """The system text of rows that have none of their own. Of documents, it is that of the rows
    only: what asks for questions is the program's own text."""
    column: str | None = None
    answers: int = 1
    """Answers to each prompt, or pairs about each piece of a document."""
    documents: bool = False
    cut: Cut = field(default_factory=Cut)
    temperature: float | None = None
    seed: int | None = None
    """The seed of a prompt's first answer; the next ones count on from it."""
    max_tokens: int = 1024
    context_tokens: int | None = None
    concurrency: int = 1
    per_minute: float = 0.0
    """Requests that begin in a minute at most; 0 is without limit."""
    force: bool = False
    """Throw away the file and its journal, and begin anew."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of it."""

    rows: int
    """Rows in the file now."""
    prompts: int
    rejected: int
    """Rows that are no prompt."""
    repeated: int
    """Prompts that an earlier one is equal to."""
    answers: int
    """Answers that came in this session."""
    tokens: int
    failed: int
    """Prompts that got no usable answer in this session; the same command asks them again."""
    cut: int
    """Answers that reached `max_tokens` and are left out."""
    same: int
    """Answers that are equal to another one to the same prompt, and are left out."""


def generate(
    request: GenerateRequest,
    teacher: Teacher,
    watch: Watch,
    *,
    retries: Retries = _RETRIES,
) -> Generated:
    """Ask for what is missing, and write all rows to `request.out`.

    Called again with the same request after it was interrupted, it asks only for what the journal
    does not hold. On Ctrl-C or an error the rows so far are written first.

    Raises:
        RefusedError: there are no prompts (`no_prompts`), or no usable answer came
            (`nothing_made`); another process is at it, or it was begun with other settings.
        NotFoundError, InvalidFileError: a source or `out` cannot be used.
        LlamaForgeError: the server fails for good.
        KeyboardInterrupt: Ctrl-C.
    """
    stop = threading.Event()
    patient = PatientTeacher(teacher, Pace(request.per_minute, stop), retries)
    # Before anything is thrown away by `force`: a slip in a file's name shall cost nothing.
    counts = count_prompts(_prompts(request), watch)
    with open_work(request.out, KIND, _settings(request, teacher), force=request.force) as journal:
        return _Generation(request, patient, journal, watch, stop, counts).run()


def _settings(request: GenerateRequest, teacher: Teacher) -> dict[str, Any]:
    """Return what an answer depends on. More tokens may be allowed later: that loses nothing."""
    settings: dict[str, Any] = {
        "model": teacher.name,
        "system": request.system,
        "temperature": request.temperature,
        "seed": request.seed,
        "context": request.context_tokens,
        "documents": request.documents,
    }
    if request.documents:
        settings |= {
            "answers": request.answers,
            "chunk": request.cut.size,
            "overlap": request.cut.overlap,
        }
    return settings


def _prompts(request: GenerateRequest) -> Iterator[Prompt | Rejection]:
    if request.documents:
        return read_pieces(request.sources, request.cut, column=request.column)
    return read_prompts(request.sources, system=request.system, column=request.column)


class _Generation:
    def __init__(
        self,
        request: GenerateRequest,
        teacher: PatientTeacher,
        journal: WorkJournal,
        watch: Watch,
        stop: threading.Event,
        counts: Counts,
    ) -> None:
        self._counts = counts
        self._request = request
        self._teacher = teacher
        self._journal = journal
        self._watch = watch
        self._stop = stop
        self._tally = Tally()
        self._left_out = {"cut": 0, "same": 0}

    def run(self) -> Generated:
        counts = self._counts
        try:
            failed = carry_out(
                self._tasks,
                self._is_done,
                self._do,
                concurrency=self._request.concurrency,
                stop=self._stop,
                tally=self._tally,
                watch=self._watch,
            )
        except BaseException:
            write_out(self._request.out, self._journal, self._rows())
            raise
        rows = write_out(self._request.out, self._journal, self._rows())
        if not rows:
            raise self._nothing(failed)
        return Generated(
            rows=rows,
            prompts=counts.prompts,
            rejected=counts.rejected,
            repeated=counts.repeated,
            answers=self._tally.answers,
            tokens=self._tally.tokens,
            failed=failed,
            **self._left_out,
        )

    def _prompts(self) -> Iterator[Prompt | Rejection]:
        return _prompts(self._request)

    def _tasks(self) -> Iterator[Task]:
        times = 1 if self._request.documents else self._request.answers
        for key, prompt in distinct(self._prompts(), Counts()):
            for number in range(times):
                yield Task(key_of("answer", key, number), prompt, number)

    def _is_done(self, task: Task) -> bool:
        result = self._journal.get(task.key)
        return result is not None and not may_be_longer(result, self._request.max_tokens)

    def _do(self, task: Task) -> None:
        result = self._pairs(task) if self._request.documents else self._answer(task)
        self._journal.add(task.key, result)

    def _answer(self, task: Task) -> dict[str, Any]:
        answer = answer_to_keep(
            self._teacher, task.prompt.messages, self._asking(task.number), self._tally
        )
        return {
            "text": answer.text,
            "cut": answer.was_cut,
            "max_tokens": self._request.max_tokens,
        }

    def _pairs(self, task: Task) -> dict[str, Any]:
        messages = pairs_prompt(task.prompt.messages[-1], self._request.answers)
        for attempt in range(_PARSE_ATTEMPTS):
            answer = answer_to_keep(
                self._teacher, messages, self._asking(attempt, PAIRS_SCHEMA), self._tally
            )
            if answer.was_cut:
                return {"pairs": [], "cut": True, "max_tokens": self._request.max_tokens}
            try:
                pairs = read_pairs(answer.text)
            except UnansweredError:
                if attempt == _PARSE_ATTEMPTS - 1:
                    raise
                continue
            return {"pairs": [list(pair) for pair in pairs], "cut": False}
        raise AssertionError("the last attempt returns or raises")

    def _asking(self, further: int, schema: dict[str, Any] | None = None) -> Asking:
        request = self._request
        return Asking(
            temperature=request.temperature,
            seed=None if request.seed is None else request.seed + further,
            max_tokens=request.max_tokens,
            context_tokens=request.context_tokens,
            schema=schema,
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that the journal holds, in the order of the prompts."""
        left_out = self._left_out = {"cut": 0, "same": 0}
        for key, prompt in distinct(self._prompts(), Counts()):
            seen: set[str] = set()
            for number in range(1 if self._request.documents else self._request.answers):
                result = self._journal.get(key_of("answer", key, number))
                if result is None:
                    continue
                if result["cut"]:
                    left_out["cut"] += 1
                    continue
                for messages in self._conversations(prompt, result):
                    text = key_of([[turn.role, turn.content.strip()] for turn in messages])
                    if text in seen:
                        left_out["same"] += 1
                        continue
                    seen.add(text)
                    yield self._row(prompt, messages)

    def _conversations(self, prompt: Prompt, result: dict[str, Any]) -> Iterator[Sequence[Message]]:
        if not self._request.documents:
            yield (*prompt.messages, Message("assistant", result["text"]))
            return
        system = self._request.system
        first = (Message("system", system),) if system.strip() else ()
        for question, answer in result["pairs"]:
            yield (*first, Message("user", question), Message("assistant", answer))

    def _row(self, prompt: Prompt, messages: Sequence[Message]) -> dict[str, Any]:
        return {
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "meta": {
                "model": self._teacher.name,
                "source": prompt.source,
                "row": prompt.row,
            },
        }

    def _nothing(self, failed: int) -> RefusedError:
        cut = self._left_out["cut"]
        if cut:
            return RefusedError(
                f"Every answer reached its {self._request.max_tokens:,} tokens and was cut off.",
                "Allow more with --max-tokens; a model that thinks needs some thousands.",
                code="nothing_made",
            )
        return RefusedError(
            f"No usable answer came; {failed:,} of the prompts got none.",
            "See the reasons above; the same command asks again.",
            code="nothing_made",
        )


def may_be_longer(result: dict[str, Any], max_tokens: int) -> bool:
    """Return whether an answer was cut off at fewer tokens than are allowed now."""
    return bool(result["cut"]) and int(result["max_tokens"]) < max_tokens
