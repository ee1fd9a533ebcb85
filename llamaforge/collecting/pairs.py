"""Preference pairs: several answers to each prompt, scored by a judge, the best and the worst.

Each answer and each score is in the journal by itself: whatever moment the work is interrupted
at, none of them is asked for again.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.collecting.answers import Asking, Teacher, UnansweredError
from llamaforge.collecting.generate import may_be_longer
from llamaforge.collecting.journal import WorkJournal, key_of
from llamaforge.collecting.judge import JUDGINGS, judge_prompt, read_score
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
from llamaforge.data.records import Rejection
from llamaforge.errors import RefusedError
from llamaforge.words import plural

KIND: Final = "data pairs"
_JUDGE_TOKENS: Final = 2_048  # a judge that thinks needs room; one that does not writes five
_SCORE_ATTEMPTS: Final = 3
_RETRIES: Final = Retries()


@dataclass(frozen=True, slots=True)
class PairsRequest:
    """What is asked for."""

    sources: tuple[Path, ...]
    out: Path
    rubric: tuple[str, ...]
    system: str = ""
    column: str | None = None
    candidates: int = 4
    margin: float = 2.0
    """How much better the best must be than the worst, in points of 1 to 10. It may be changed
    later: nothing is asked again for that."""
    temperature: float = 0.9
    seed: int = 0
    """The seed of the first candidate; the next ones count on from it."""
    max_tokens: int = 1024
    context_tokens: int | None = None
    concurrency: int = 1
    per_minute: float = 0.0
    force: bool = False


@dataclass(frozen=True, slots=True)
class Paired:
    """What came of it."""

    rows: int
    """Pairs in the file now."""
    prompts: int
    rejected: int
    repeated: int
    answers: int
    """Answers and scores that came in this session."""
    tokens: int
    failed: int
    too_close: int
    """Prompts whose best and worst answer are less than the margin apart."""
    too_few: int
    """Prompts with fewer than two different answers that were not cut off."""
    longer_chosen: int
    """Pairs whose chosen answer is the longer one: far more than half hints at a judge that
    takes length for quality."""


def make_pairs(
    request: PairsRequest,
    teacher: Teacher,
    judge: Teacher,
    watch: Watch,
    *,
    retries: Retries = _RETRIES,
) -> Paired:
    """Ask for what is missing, and write all pairs to `request.out`; else as `generate`."""
    stop = threading.Event()
    pace = Pace(request.per_minute, stop)
    settings = {
        "model": teacher.name,
        "judge": judge.name,
        "system": request.system,
        "rubric": list(request.rubric),
        "candidates": request.candidates,
        "temperature": request.temperature,
        "seed": request.seed,
        "context": request.context_tokens,
    }
    # Before anything is thrown away by `force`: a slip in a file's name shall cost nothing.
    counts = count_prompts(_prompts(request), watch)
    with open_work(request.out, KIND, settings, force=request.force) as journal:
        return _Pairing(
            request,
            PatientTeacher(teacher, pace, retries),
            PatientTeacher(judge, pace, retries),
            journal,
            watch,
            stop,
            counts,
        ).run()


def _prompts(request: PairsRequest) -> Iterator[Prompt | Rejection]:
    return read_prompts(request.sources, system=request.system, column=request.column)


class _Pairing:
    def __init__(
        self,
        request: PairsRequest,
        teacher: PatientTeacher,
        judge: PatientTeacher,
        journal: WorkJournal,
        watch: Watch,
        stop: threading.Event,
        counts: Counts,
    ) -> None:
        self._counts = counts
        self._request = request
        self._teacher = teacher
        self._judge = judge
        self._journal = journal
        self._watch = watch
        self._stop = stop
        self._tally = Tally()
        self._seen = {"too_close": 0, "too_few": 0, "longer_chosen": 0}

    def run(self) -> Paired:
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
        return Paired(
            rows=rows,
            prompts=counts.prompts,
            rejected=counts.rejected,
            repeated=counts.repeated,
            answers=self._tally.answers,
            tokens=self._tally.tokens,
            failed=failed,
            **self._seen,
        )

    def _prompts(self) -> Iterator[Prompt | Rejection]:
        return _prompts(self._request)

    def _tasks(self) -> Iterator[Task]:
        for key, prompt in distinct(self._prompts(), Counts()):
            yield Task(key, prompt)

    def _is_done(self, task: Task) -> bool:
        answers = [self._kept(task.key, number) for number in range(self._request.candidates)]
        if any(answer is None for answer in answers):
            return False
        texts = _usable([answer for answer in answers if answer is not None])
        return len(texts) < 2 or all(
            _score_key(task.key, text, judging) in self._journal
            for text in texts
            for judging in range(JUDGINGS)
        )

    def _do(self, task: Task) -> None:
        answers = [self._candidate(task, number) for number in range(self._request.candidates)]
        texts = _usable(answers)
        if len(texts) < 2:
            return
        for text in texts:
            for judging in range(JUDGINGS):
                self._score(task, text, judging)

    def _kept(self, key: str, number: int) -> dict[str, Any] | None:
        """Return a candidate that need not be asked for again."""
        result = self._journal.get(key_of("answer", key, number))
        if result is None or may_be_longer(result, self._request.max_tokens):
            return None
        return result

    def _candidate(self, task: Task, number: int) -> dict[str, Any]:
        kept = self._kept(task.key, number)
        if kept is not None:
            return kept
        request = self._request
        asking = Asking(
            temperature=request.temperature,
            seed=request.seed + number,
            max_tokens=request.max_tokens,
            context_tokens=request.context_tokens,
        )
        answer = answer_to_keep(self._teacher, task.prompt.messages, asking, self._tally)
        result = {
            "text": answer.text,
            "cut": answer.was_cut,
            "max_tokens": request.max_tokens,
        }
        self._journal.add(key_of("answer", task.key, number), result)
        return result

    def _score(self, task: Task, text: str, judging: int) -> None:
        key = _score_key(task.key, text, judging)
        if key in self._journal:
            return
        messages = judge_prompt(task.prompt.messages, text, self._request.rubric, judging)
        for attempt in range(_SCORE_ATTEMPTS):
            asking = Asking(
                temperature=0.0,
                seed=self._request.seed + attempt,
                max_tokens=_JUDGE_TOKENS,
                context_tokens=self._request.context_tokens,
            )
            score = read_score(answer_to_keep(self._judge, messages, asking, self._tally).text)
            if score is not None:
                self._journal.add(key, {"score": score})
                return
        raise UnansweredError("the judge does not reply with a score")

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the pairs that the journal holds, in the order of the prompts."""
        seen = self._seen = {"too_close": 0, "too_few": 0, "longer_chosen": 0}
        for key, prompt in distinct(self._prompts(), Counts()):
            answers = [
                self._journal.get(key_of("answer", key, number))
                for number in range(self._request.candidates)
            ]
            if any(answer is None for answer in answers):
                continue
            texts = _usable([answer for answer in answers if answer is not None])
            if len(texts) < 2:
                seen["too_few"] += 1
                continue
            scores = [self._scores(key, text) for text in texts]
            means = [sum(found) / JUDGINGS for found in scores if len(found) == JUDGINGS]
            if len(means) < len(texts):
                continue
            best, worst = means.index(max(means)), means.index(min(means))
            if means[best] - means[worst] < self._request.margin or best == worst:
                seen["too_close"] += 1
                continue
            seen["longer_chosen"] += len(texts[best]) > len(texts[worst])
            yield self._row(prompt, texts, scores, best, worst)

    def _scores(self, key: str, text: str) -> list[int]:
        found = [self._journal.get(_score_key(key, text, judging)) for judging in range(JUDGINGS)]
        return [int(result["score"]) for result in found if result is not None]

    def _row(
        self,
        prompt: Prompt,
        texts: list[str],
        scores: list[list[int]],
        best: int,
        worst: int,
    ) -> dict[str, Any]:
        return {
            "prompt": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            "chosen": [{"role": "assistant", "content": texts[best]}],
            "rejected": [{"role": "assistant", "content": texts[worst]}],
            "meta": {
                "model": self._teacher.name,
                "judge": self._judge.name,
                "scores": {"chosen": scores[best], "rejected": scores[worst]},
                "all_scores": scores,
                "source": prompt.source,
                "row": prompt.row,
            },
        }

    def _nothing(self, failed: int) -> RefusedError:
        seen = self._seen
        return RefusedError(
            f"No pair came of it: {plural(seen['too_close'], 'prompt')} had answers too close "
            f"to each other, {seen['too_few']:,} fewer than two to compare, {failed:,} no "
            f"answer or score.",
            "Lower --margin, raise --temperature, --candidates or --max-tokens, or take another"
            " judge; what was answered is kept.",
            code="nothing_made",
        )


def _usable(answers: list[dict[str, Any]]) -> list[str]:
    """Return the different texts of the answers that were not cut off, in their order."""
    texts: dict[str, str] = {}
    for answer in answers:
        if not answer["cut"]:
            texts.setdefault(answer["text"].strip(), answer["text"])
    return list(texts.values())


def _score_key(key: str, text: str, judging: int) -> str:
    return key_of("score", key, text, judging)
