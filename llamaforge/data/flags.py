"""What is wrong with single rows, and with answers as a whole."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.languages import language_of
from llamaforge.data.privacy import mask_text
from llamaforge.data.records import HEAD_ROLES, Message, Record
from llamaforge.data.refusals import is_refusal
from llamaforge.data.row_refs import (
    Example,
    all_turns,
    answer_of,
    excerpt,
    is_bad,
    is_labelled,
    is_pair,
    question_of,
    ref_of,
)

_EXAMPLES: Final = 5
SHORT_CHARACTERS: Final = 4
"""Answers of fewer characters than this are very short; of Chinese and the like, than one."""
_MIN_ANSWERS: Final = 20
"""Rows from which something is said about all of them."""
_ENDING_CHARACTERS: Final = 80
"""Only longer answers are asked for a proper ending: `42` and `Paris` have none."""
_ENDS_PROPERLY: Final = 0.6
"""Part of the answers that must end properly before the others count as cut off."""
_LONGER_PART, _LONGER_RATIO = 0.7, 1.2
_MAX_LABELS: Final = 50
_LABEL_CHARACTERS: Final = 64
_LABEL_TRACKED: Final = 1_000
_LABEL_ROWS: Final = 50
_IMBALANCE: Final = 10
"""The most frequent answer has this many times the rows of the rarest, and more than half."""
_IMBALANCE_PART: Final = 0.5
_TURN_BINS: Final = 16

MESSAGES: Final = {
    "empty_answer": "the answer is empty",
    "empty_question": "the question is empty",
    "answer_is_question": "the answer repeats the question word for word",
    "chosen_is_rejected": "the better and the worse answer are the same",
    "refusal": "the answer is a stock refusal",
    "mojibake": "text was decoded with the wrong encoding (`Ã©` for é, or U+FFFD)",
    "control_characters": "text holds control characters",
    "short_answer": "the answer has fewer than four characters",
    "loop": "the answer ends in a loop of one text",
    "cut_off": "the answer stops in the middle of a sentence, where most others do not",
    "length_bias": "the better answers are mostly the longer ones; length will be learned",
    "label_imbalance": "some answers are much more frequent than others",
}
"""What each flag says, one clause."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One thing that is wrong, with how many rows."""

    code: str
    rows: int
    fraction: float
    """Of the rows that could have it, 0 to 1."""
    message: str
    examples: tuple[Example, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "code": self.code,
            "rows": self.rows,
            "fraction": round(self.fraction, 4),
            "message": self.message,
            "examples": [example.to_json() for example in self.examples],
        }


@dataclass(frozen=True, slots=True)
class FlagReport:
    """What was seen in all rows."""

    rows: int
    pairs: int
    """Preference pairs among them."""
    labelled: dict[str, int]
    """Answers that are labelled by themselves: how many are `good`, how many `bad`; else empty."""
    flags: tuple[Flag, ...]
    """The most frequent first; only those that some row has."""
    languages: dict[str, int]
    """Rows by the language of their answer; see `languages`."""
    scripts_differ: int
    """Rows whose answer is in another language than the question, both known."""
    roles: dict[str, int]
    """Messages by role."""
    turns: dict[int, int]
    """Rows by their number of messages other than system; 16 stands for 16 and more."""
    system_rows: int
    """Rows with a system message."""
    labels: dict[str, int]
    """The most frequent answers (masked), where all rows together have few; else empty."""
    chosen_longer: float | None
    """Part of the pairs whose better answer is the longer one; None without pairs."""
    length_ratio: float | None
    """Characters of all better answers, divided by those of all worse ones."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "rows": self.rows,
            "pairs": self.pairs,
            "labelled": self.labelled,
            "flags": [flag.to_json() for flag in self.flags],
            "languages": self.languages,
            "scripts_differ": self.scripts_differ,
            "roles": self.roles,
            "turns": {str(count): rows for count, rows in self.turns.items()},
            "system_rows": self.system_rows,
            "labels": self.labels,
            "chosen_longer": self.chosen_longer,
            "length_ratio": self.length_ratio,
        }


def row_flags(record: Record) -> list[str]:
    """Return the codes of what is wrong with one row, looked at alone."""
    answer, question = answer_of(record), question_of(record)
    asks = any(turn.role == "user" for turn in record.messages)
    text = "\n".join(turn.words for turn in all_turns(record))
    checks: tuple[tuple[str, bool], ...] = (
        ("empty_answer", not answer.strip()),
        ("empty_question", asks and not question.strip()),
        ("answer_is_question", bool(answer.strip()) and _same(answer, question)),
        ("chosen_is_rejected", is_pair(record) and _said(record.chosen) == _said(record.rejected)),
        ("refusal", is_refusal(answer)),
        ("mojibake", has_mojibake(text)),
        ("control_characters", _CONTROL.search(text) is not None),
        ("short_answer", is_very_short(answer)),
        ("loop", ends_in_loop(answer)),
    )
    # What is wrong with an answer that is labelled bad is why it is there.
    expected = _OF_ANSWERS if is_bad(record) else frozenset()
    return [code for code, is_so in checks if is_so and code not in expected]


_OF_ANSWERS: Final = frozenset({"answer_is_question", "refusal", "short_answer", "loop"})
"""Flags that an answer may well have which is not to be learned."""


# What Windows-1252 makes of the bytes 0x80 to 0xBF, which follow the first byte of two in UTF-8.
_TAIL: Final = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MOJIBAKE: Final = re.compile(
    "\ufffd"
    f"|(?<![A-ZÀ-ÖØ-Þ])Ã[{_TAIL}]"  # Portuguese capitals (MAÇÃ) have one Ã after another
    "|Â[\u0080-\u00a9\u00ab-\u00ba\u00bc-\u00bf]"
    "|â€[\u0080-\u009f™œ˜¦“”\u009d]"
    f"|(?:[ÐÑ][{_TAIL}]){{3}}"
    f"|ðŸ[{_TAIL}]|ï»¿"
)
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]")


def has_mojibake(text: str) -> bool:
    """Return whether `text` holds what UTF-8 read as Windows-1252 looks like, or U+FFFD."""
    return not text.isascii() and _MOJIBAKE.search(text) is not None


def is_very_short(answer: str) -> bool:
    """Return whether `answer` has fewer than four characters; one is enough beyond Latin."""
    text = answer.strip()
    return bool(text) and len(text) < SHORT_CHARACTERS and text.isascii()


_LOOP_TIMES: Final = 4
_LOOP_CHARACTERS: Final = 120
_LONGEST_LOOP: Final = 1_000


def ends_in_loop(answer: str) -> bool:
    """Return whether `answer` ends in one text, at least four times and 120 characters in all.

    The fourth turn may be cut off in the middle. Rulers such as `-----` are none.
    """
    text = answer.rstrip()[-_LOOP_TIMES * _LONGEST_LOOP :]
    end = text[-24:]
    place = text.rfind(end, 0, len(text) - 1)
    if len(text) < _LOOP_CHARACTERS or place < 0:
        return False
    period = len(text) - len(end) - place
    size = max((_LOOP_TIMES - 1) * period + (period + 1) // 2, _LOOP_CHARACTERS)
    if size > len(text) or not any(map(str.isalnum, text[-period:])):
        return False
    return text[-size:-period] == text[-size + period :]


_PROPER_END: Final = re.compile(r"[^\w\s,;:–-]\s*$|:[\w+-]+:\s*$")
_LIST_LINE: Final = re.compile(r"\s*(?:[-*•+|>#]|\d{1,3}[.)]|[A-Za-z][.)]\s)|\s{4,}|.{0,40}$")


def ends_properly(answer: str) -> bool:
    """Return whether `answer` ends with a mark, in a list, or in a short line such as a name."""
    if answer.count("```") % 2:
        return False
    last = answer.rstrip().rpartition("\n")[2]
    return bool(_PROPER_END.search(last[-40:]) or (last != answer and _LIST_LINE.match(last)))


class FlagCounter:
    """Takes rows one by one and counts what is wrong with them."""

    def __init__(self) -> None:
        self._rows = self._pairs = self._system = self._differ = 0
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}
        self._languages: Counter[str] = Counter()
        self._roles: Counter[str] = Counter()
        self._turns: Counter[int] = Counter()
        self._labels: Counter[str] | None = Counter()
        self._endings = 0
        self._longer = self._chosen_size = self._rejected_size = 0
        self._labelled: Counter[str] = Counter()

    def add(self, record: Record, *, mask: Callable[[str], str] = mask_text) -> None:
        """Take one more row; `mask` hides what may not be shown in an example."""
        self._rows += 1
        answer = answer_of(record)
        for code in row_flags(record):
            self._flag(code, record, answer, mask)
        self._count_shape(record, answer)
        is_single = not (record.chosen or record.rejected)
        if len(answer) >= _ENDING_CHARACTERS and is_single:
            self._endings += 1
            if not ends_properly(answer):
                self._flag("cut_off", record, answer, mask, from_end=True)
        if is_pair(record):
            self._count_pair(record)
        elif is_labelled(record):
            self._labelled["bad" if is_bad(record) else "good"] += 1
        else:
            self._count_label(answer, mask)

    def report(self) -> FlagReport:
        """Return what was seen so far."""
        counts = self._counts.copy()
        cut_off = counts["cut_off"]
        if self._endings < _MIN_ANSWERS or cut_off > (1 - _ENDS_PROPERLY) * self._endings:
            del counts["cut_off"]  # most end like this: it is how these answers are written
        parts = {
            "cut_off": self._endings,
            "chosen_is_rejected": self._pairs,
        }
        flags = [
            Flag(
                code,
                rows,
                rows / parts.get(code, self._rows),
                MESSAGES[code],
                tuple(self._examples.get(code, ())),
            )
            for code, rows in counts.items()
            if rows
        ]
        longer, ratio = self._length_bias()
        if longer is not None and ratio is not None:
            is_biased = longer >= _LONGER_PART and ratio >= _LONGER_RATIO
            if is_biased and self._pairs >= _MIN_ANSWERS:
                flags.append(Flag("length_bias", self._longer, longer, MESSAGES["length_bias"]))
        labels = self._few_labels()
        if labels:
            most, rarest = max(labels.values()), min(labels.values())
            part = most / self._rows
            if len(labels) == 1 or (most >= _IMBALANCE * rarest and part > _IMBALANCE_PART):
                flags.append(Flag("label_imbalance", most, part, MESSAGES["label_imbalance"]))
        return FlagReport(
            rows=self._rows,
            pairs=self._pairs,
            labelled=dict(sorted(self._labelled.items(), reverse=True)),
            flags=tuple(sorted(flags, key=lambda flag: (-flag.rows, flag.code))),
            languages=dict(self._languages.most_common()),
            scripts_differ=self._differ,
            roles=dict(self._roles.most_common()),
            turns=dict(sorted(self._turns.items())),
            system_rows=self._system,
            labels=labels,
            chosen_longer=longer,
            length_ratio=ratio,
        )

    def _flag(
        self,
        code: str,
        record: Record,
        text: str,
        mask: Callable[[str], str],
        *,
        from_end: bool = False,
    ) -> None:
        self._counts[code] += 1
        examples = self._examples.setdefault(code, [])
        if len(examples) < _EXAMPLES:
            masked = mask(text)
            shown = f"…{excerpt(masked[-50:])}" if from_end else excerpt(masked)
            examples.append(Example(ref_of(record), shown))

    def _count_shape(self, record: Record, answer: str) -> None:
        roles = [turn.role for turn in record.messages]
        self._roles.update(roles)
        self._system += "system" in roles
        turns = sum(role not in HEAD_ROLES for role in roles) + bool(
            record.chosen or record.rejected
        )
        self._turns[min(turns, _TURN_BINS)] += 1
        language = language_of(answer)
        self._languages[language] += 1
        asked = language_of(question_of(record))
        self._differ += "unknown" not in {asked, language} and asked != language

    def _count_pair(self, record: Record) -> None:
        self._pairs += 1
        chosen, rejected = (
            sum(len(turn.words) for turn in turns) for turns in (record.chosen, record.rejected)
        )
        self._longer += chosen > rejected
        self._chosen_size += chosen
        self._rejected_size += rejected

    def _count_label(self, answer: str, mask: Callable[[str], str]) -> None:
        if self._labels is None:
            return
        if len(answer) > _LABEL_CHARACTERS:
            self._labels = None
            return
        self._labels[excerpt(mask(answer))] += 1
        if len(self._labels) > _LABEL_TRACKED:
            self._labels = None

    def _few_labels(self) -> dict[str, int]:
        """Return the rows of each answer where there are so few answers that they are labels."""
        singles = self._rows - self._pairs - self._labelled.total()
        if not self._labels or singles < _LABEL_ROWS:
            return {}
        if len(self._labels) > min(_MAX_LABELS, singles // 10):
            return {}
        return dict(self._labels.most_common())

    def _length_bias(self) -> tuple[float | None, float | None]:
        if not self._pairs:
            return None, None
        ratio = self._chosen_size / self._rejected_size if self._rejected_size else None
        return self._longer / self._pairs, ratio


def count_flags(records: Iterable[Record]) -> FlagReport:
    """Return what is wrong with `records`, in one pass."""
    counter = FlagCounter()
    for record in records:
        counter.add(record)
    return counter.report()


def _same(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > 100:
        return False
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())


def _said(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.role, " ".join(turn.words.split())) for turn in turns]
