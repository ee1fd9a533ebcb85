"""All that rows show before they are trained on, in one pass: sections with figures and examples.

Rows are not kept, so data may be larger than memory; see `near` for what is kept of each. How it
is shown is the affair of screens and commands.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from llamaforge.data.flags import Flag, FlagCounter, FlagReport
from llamaforge.data.lengths import LengthCounter, LengthReport, Measure
from llamaforge.data.near import MAX_ROWS, THRESHOLD, DuplicateFinder, Duplicates
from llamaforge.data.privacy import Finding, PrivacyReport, PrivacyScan, mask_text
from llamaforge.data.records import Record
from llamaforge.data.row_refs import Example
from llamaforge.words import plural

_EXAMPLES: Final = 5
_PROGRESS_ROWS: Final = 500
"""Rows between two calls of `on_progress` and of `stopped`: some tenths of a second."""
_MANY_NEAR: Final = 0.1
_MANY_FLAGGED: Final = 0.01
_MANY_SHORT: Final = 0.2
_LARGE_CLUSTER: Final = 0.1

Figure = int | float | str | None


class Severity(StrEnum):
    """What a section means for a run."""

    INFO = "info"
    WARN = "warn"
    STOP = "stop"
    """The run must not begin unless a person says so."""


@dataclass(frozen=True, slots=True)
class Section:
    """One thing that the rows show."""

    code: str
    title: str
    severity: Severity
    message: str
    """One sentence; of a warning, what is wrong, and one more of what to do."""
    figures: Mapping[str, Figure]
    examples: tuple[Example, ...] = ()
    """Masked and safe to print, but for the sources' names."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "code": self.code,
            "title": self.title,
            "severity": self.severity.value,
            "message": self.message,
            "figures": dict(self.figures),
            "examples": [example.to_json() for example in self.examples],
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the rows show."""

    rows: int
    complete: bool
    """False where it was stopped; everything is about the first `rows` rows then."""
    sections: tuple[Section, ...]
    duplicates: Duplicates
    privacy: PrivacyReport
    flags: FlagReport
    lengths: LengthReport | None
    """None where no measure was given."""

    @property
    def clusters(self) -> tuple[int, ...]:
        """For each row its cluster of near duplicates, as `split` takes it."""
        return self.duplicates.clusters

    @property
    def severity(self) -> Severity:
        """The gravest of the sections."""
        order = list(Severity)
        return max((s.severity for s in self.sections), key=order.index, default=Severity.INFO)

    def problems(self) -> list[dict[str, str]]:
        """Return `{"level", "code", "message"}` of every section that warns or stops."""
        return [
            {"level": section.severity.value, "code": section.code, "message": section.message}
            for section in self.sections
            if section.severity is not Severity.INFO
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything but what has as many values as there are rows."""
        return {
            "rows": self.rows,
            "complete": self.complete,
            "severity": self.severity.value,
            "sections": [section.to_json() for section in self.sections],
            "problems": self.problems(),
            "duplicates": self.duplicates.to_json(),
            "privacy": self.privacy.to_json(),
            "flags": self.flags.to_json(),
            "lengths": None if self.lengths is None else self.lengths.to_json(),
        }


def analyse(
    records: Iterable[Record],
    *,
    measure: Measure | None = None,
    max_length: int | None = None,
    context: int | None = None,
    allow_secrets: bool = False,
    threshold: float = THRESHOLD,
    max_compared: int = MAX_ROWS,
    on_progress: Callable[[int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Analysis:
    """Return what `records` show, in one pass.

    Args:
        records: rows in their order.
        measure: tells a row's length in tokens; see `lengths.by_text`. None: lengths are left out.
        max_length: tokens that a row may have; None: as suggested.
        context: tokens that the model takes at once.
        allow_secrets: a person has agreed to train on what looks like secrets: they only warn.
        threshold: Jaccard similarity from which rows are near duplicates, above 0 to 1.
        max_compared: rows that are compared for near duplicates, the first ones.
        on_progress: called with the rows done, every 500 rows and at the end.
        stopped: asked every 500 rows whether to end here.

    Raises:
        ValueError: the threshold is out of bounds.
    """
    finder = DuplicateFinder(threshold=threshold, max_rows=max_compared)
    privacy, flags = PrivacyScan(), FlagCounter()
    lengths = None if measure is None else LengthCounter(measure)
    rows, complete = 0, True
    for record in records:
        if stopped is not None and rows % _PROGRESS_ROWS == 0 and stopped():
            complete = False
            break
        # Masking searches a text once more, so it is done only where there is something to mask.
        mask = mask_text if privacy.add(record) else _as_it_is
        finder.add(record, mask=mask)
        flags.add(record, mask=mask)
        if lengths is not None:
            lengths.add(record)
        rows += 1
        if on_progress is not None and rows % _PROGRESS_ROWS == 0:
            on_progress(rows)
    if on_progress is not None:
        on_progress(rows)
    duplicates, found, flagged = finder.finish(), privacy.report(), flags.report()
    measured = lengths.report(max_length=max_length, context=context) if lengths else None
    sections = [
        _overview(rows, flagged),
        _duplicate_section(duplicates),
        _conflict_section(duplicates),
        _secret_section(found, allow_secrets),
        _personal_section(found),
        *map(_flag_section, flagged.flags),
        _language_section(flagged),
    ]
    if measured is not None:
        sections.append(_length_section(measured, context))
    return Analysis(rows, complete, tuple(sections), duplicates, found, flagged, measured)


def _as_it_is(text: str) -> str:
    return text


def _part(count: int, of: int) -> str:
    """Return `count` as a percentage that is 0 or 100 for none and all only."""
    if not of or not count or count == of:
        return "100 %" if count else "0 %"
    percent = 100 * count / of
    return f"{min(max(percent, 0.1), 99.9):.1f} %"


def _overview(rows: int, flags: FlagReport) -> Section:
    figures: dict[str, Figure] = {
        "rows": rows,
        "preference_pairs": flags.pairs,
        **{f"labelled_{label}": count for label, count in flags.labelled.items()},
        "with_system_message": flags.system_rows,
    }
    figures |= {f"messages_{role}": count for role, count in flags.roles.items()}
    figures |= {f"turns_{count}": number for count, number in flags.turns.items()}
    parts = [plural(rows, "row")]
    if flags.pairs:
        parts.append(f"{flags.pairs:,} preference pairs")
    parts += [f"{count:,} labelled {label}" for label, count in flags.labelled.items()]
    if flags.system_rows:
        parts.append(f"{flags.system_rows:,} with a system message")
    return Section("rows", "Rows", Severity.INFO, f"{', '.join(parts)}.", figures)


def _duplicate_section(found: Duplicates) -> Section:
    repeated = found.exact + found.near
    largest = found.largest[0].rows if found.largest else 0
    figures: dict[str, Figure] = {
        "exact": found.exact,
        "near": found.near,
        "clusters": found.cluster_count,
        "largest_cluster": largest,
        "compared": found.compared,
    }
    examples = tuple(e for cluster in found.largest[:2] for e in cluster.examples[:2])
    if not repeated:
        return Section(
            "duplicates", "Duplicates", Severity.INFO, "No row repeats another.", figures
        )
    message = (
        f"{plural(repeated, 'row')} ({_part(repeated, found.rows)})"
        f" {'repeats' if repeated == 1 else 'repeat'} an earlier one, {found.exact:,} word for"
        " word; near duplicates stay on one side of the split."
    )
    severity = Severity.INFO
    if repeated > _MANY_NEAR * found.rows or largest > max(_LARGE_CLUSTER * found.rows, 10):
        severity = Severity.WARN
        message += " Leave them out, or the model learns them by heart."
    return Section("duplicates", "Duplicates", severity, message, figures, examples)


def _conflict_section(found: Duplicates) -> Section:
    figures: dict[str, Figure] = {"prompts": found.conflicts, "rows": found.conflict_rows}
    if not found.conflicts:
        message = "No prompt has different answers."
        return Section("conflicts", "Conflicting answers", Severity.INFO, message, figures)
    prompts = plural(found.conflicts, "prompt has", "prompts have")
    message = (
        f"{prompts} different answers, in {plural(found.conflict_rows, 'row')}. Keep one answer "
        "each, unless several are right."
    )
    many = found.conflict_rows > _MANY_FLAGGED * found.rows
    examples = tuple(e for conflict in found.conflict_examples[:2] for e in conflict.examples[:2])
    severity = Severity.WARN if many else Severity.INFO
    return Section("conflicts", "Conflicting answers", severity, message, figures, examples)


def _secret_section(found: PrivacyReport, allowed: bool) -> Section:
    figures: dict[str, Figure] = {"rows": found.secret_rows, **found.secret_kinds}
    if not found.secret_rows:
        message = "Nothing looks like a key, a token or a password."
        return Section("secrets", "Secrets", Severity.INFO, message, figures)
    message = (
        f"In {plural(found.secret_rows, 'row')} something looks like a secret"
        f" ({', '.join(found.secret_kinds)}). Remove them and withdraw those that are real: a"
        " model repeats what it learned."
    )
    severity = Severity.WARN if allowed else Severity.STOP
    return Section("secrets", "Secrets", severity, message, figures, _found(found.secrets))


def _personal_section(found: PrivacyReport) -> Section:
    figures: dict[str, Figure] = {"rows": found.personal_rows, **found.personal_kinds}
    if not found.personal_rows:
        message = "Nothing looks like an address, a number or an account of a person."
        return Section("personal", "Personal data", Severity.INFO, message, figures)
    message = (
        f"In {plural(found.personal_rows, 'row')} something looks like personal data"
        f" ({', '.join(found.personal_kinds)}). Remove or replace it unless it may be learned."
    )
    return Section(
        "personal", "Personal data", Severity.WARN, message, figures, _found(found.personal)
    )


def _found(findings: tuple[Finding, ...]) -> tuple[Example, ...]:
    return tuple(
        Example(finding.ref, f"{finding.kind} {finding.masked}") for finding in findings[:_EXAMPLES]
    )


_FLAG_TITLES: Final = {
    "empty_answer": "Empty answers",
    "empty_question": "Empty questions",
    "answer_is_question": "Answers that repeat the question",
    "chosen_is_rejected": "Pairs without a difference",
    "refusal": "Stock refusals",
    "mojibake": "Wrong encoding",
    "control_characters": "Control characters",
    "short_answer": "Very short answers",
    "loop": "Answers that loop",
    "cut_off": "Answers that are cut off",
    "length_bias": "Length bias",
    "label_imbalance": "Imbalanced answers",
}
_FLAG_ADVICE: Final = {
    "empty_answer": "Leave these rows out, or the model learns to say nothing.",
    "empty_question": "Mend these rows, or leave them out.",
    "answer_is_question": "Mend these rows, or leave them out.",
    "chosen_is_rejected": "Leave these pairs out: they teach nothing.",
    "refusal": "Leave these rows out unless the model is to refuse.",
    "mojibake": "Read the source again as UTF-8.",
    "control_characters": "Remove the characters.",
    "short_answer": "See whether the answers are meant to be so short.",
    "loop": "Leave these rows out, or the model learns to repeat itself.",
    "cut_off": "Leave these rows out, or the model learns to stop early.",
    "length_bias": "Add pairs whose better answer is the shorter one.",
    "label_imbalance": "Add rows of the rare answers, or thin out the frequent ones.",
}
_WARN_AT: Final = {"refusal": _MANY_FLAGGED, "short_answer": _MANY_SHORT, "cut_off": _MANY_FLAGGED}
"""Part of the rows from which a flag is a warning; the others warn with the first row."""


def _flag_section(flag: Flag) -> Section:
    severity = Severity.WARN if flag.fraction >= _WARN_AT.get(flag.code, 0.0) else Severity.INFO
    part = _part(flag.rows, round(flag.rows / flag.fraction))
    message = f"In {plural(flag.rows, 'row')} ({part}) {flag.message}."
    message += f" {_FLAG_ADVICE[flag.code]}"
    figures: dict[str, Figure] = {"rows": flag.rows, "fraction": round(flag.fraction, 4)}
    return Section(
        flag.code, _FLAG_TITLES[flag.code], severity, message, figures, flag.examples[:_EXAMPLES]
    )


def _language_section(flags: FlagReport) -> Section:
    known = [language for language in flags.languages if language != "unknown"]
    figures: dict[str, Figure] = {**flags.languages, "answer_differs": flags.scripts_differ}
    message = f"Answers are mostly in {known[0]}." if known else "No language was recognised."
    return Section("languages", "Languages", Severity.INFO, message, figures)


def _length_section(found: LengthReport, context: int | None) -> Section:
    figures: dict[str, Figure] = {
        "p50": found.p50,
        "p95": found.p95,
        "p99": found.p99,
        "max": found.max,
        "total": found.total,
        "suggested_max_length": found.suggested_max_length,
        "max_length": found.max_length,
        "shortened": found.shortened,
        "truncated_answers": found.truncated_answers,
    }
    if not found.truncated_answers:
        message = f"{found.max_length:,} tokens hold every answer."
        return Section("lengths", "Lengths", Severity.INFO, message, figures)
    message = (
        f"The answer of {plural(found.truncated_answers, 'row')}"
        f" ({_part(found.truncated_answers, found.rows)}) does not fit into {found.max_length:,}"
        " tokens. "
    )
    if context is not None and found.max_length >= context:
        message += f"The model takes {context:,}; shorten these rows or leave them out."
    else:
        message += f"A max_length of {found.max:,} would hold all rows."
    return Section("lengths", "Lengths", Severity.WARN, message, figures, found.truncated_examples)
