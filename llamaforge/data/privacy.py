"""Secrets and personal data in rows: found on this machine, shown masked, never written down.

Secrets (what gives access) block a run; personal data is a warning, since many data sets hold
names and addresses on purpose. What is found are forms with a check: a name or an address in plain
words is not found.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from llamaforge.data.personal_forms import PERSONAL_FORMS
from llamaforge.data.records import Record
from llamaforge.data.row_refs import RowRef, all_turns, ref_of
from llamaforge.data.secret_forms import SECRET_FORMS, Form
from llamaforge.safe_text import safe_line

MAX_FINDINGS: Final = 1_000
"""Secrets, and pieces of personal data, that are listed; beyond that they are only counted."""
_MOST_MASKED: Final = 4_096
"""Characters of a text that is shown in a few: a row's keys and names can be of any length."""
_SHOWN: Final = 2
"""Characters of a finding that are shown at its beginning, and at its end."""


@dataclass(frozen=True, slots=True)
class Span:
    """One finding in a text."""

    kind: str
    secret: bool
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding in a row."""

    kind: str
    secret: bool
    """Whether it gives access to something; else it is about a person."""
    ref: RowRef
    masked: str
    """At most its first two and last two characters; safe to print."""

    def to_json(self) -> dict[str, Any]:
        """Return `{"kind", "source", "line", "masked"}`."""
        return {"kind": self.kind} | self.ref.to_json() | {"masked": self.masked}


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """What was found in all rows."""

    secrets: tuple[Finding, ...]
    """The first thousand; the same value in one row counts once."""
    personal: tuple[Finding, ...]
    """The first thousand."""
    secret_kinds: dict[str, int]
    """Rows with secrets of each kind."""
    personal_kinds: dict[str, int]
    """Rows with personal data of each kind."""
    secret_rows: int
    personal_rows: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "secrets": [finding.to_json() for finding in self.secrets],
            "personal": [finding.to_json() for finding in self.personal],
            "secret_kinds": self.secret_kinds,
            "personal_kinds": self.personal_kinds,
            "secret_rows": self.secret_rows,
            "personal_rows": self.personal_rows,
        }


def find_private(text: str) -> list[Span]:
    """Return what looks like a secret or like personal data, by its place; none overlap."""
    spans: list[Span] = []
    for form, secret in _candidates(text):
        for match in form.pattern.finditer(text):
            if form.accepts(match):
                _take(spans, Span(form.kind, secret, *match.span(form.group)))
    return sorted(spans, key=lambda span: span.start)


def _take(spans: list[Span], found: Span) -> None:
    """Add `found`; what overlaps with an earlier finding only makes that one longer."""
    for place, span in enumerate(spans):
        if span.start < found.stop and found.start < span.stop:
            start, stop = min(span.start, found.start), max(span.stop, found.stop)
            if (start, stop) != (span.start, span.stop):
                del spans[place]  # which may now reach into another one
                _take(spans, Span(span.kind, span.secret, start, stop))
            return
    spans.append(found)


def mask(value: str) -> str:
    """Return at most the first two and the last two characters of `value`, safe to print."""
    if len(value) < 4 * _SHOWN:
        return "…"
    return safe_line(f"{value[:_SHOWN]}…{value[-_SHOWN:]}")


def mask_text(text: str) -> str:
    """Return `text` with every secret and all personal data masked."""
    for span in reversed(find_private(text)):
        text = text[: span.start] + mask(text[span.start : span.stop]) + text[span.stop :]
    return text


def masked_line(text: str, *, limit: int) -> str:
    """Return `text` masked, on one line and safe to print, at most `limit` characters of it."""
    return safe_line(mask_text(text[:_MOST_MASKED]), limit=limit)


class PrivacyScan:
    """Takes rows one by one and counts what is found in them."""

    def __init__(self) -> None:
        self._findings: dict[bool, list[Finding]] = {True: [], False: []}
        self._kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        self._rows = {True: 0, False: 0}

    def add(self, record: Record) -> bool:
        """Look through one row; return whether anything was found."""
        text = "\n\n".join(turn.words for turn in all_turns(record))
        spans = find_private(text)
        if record.meta:  # it is frozen with the row; numbers in it are rarely a person's
            beside = _spelled(record.meta)
            start = len(text) + 2
            spans += [
                replace(span, start=span.start + start, stop=span.stop + start)
                for span in find_private(beside)
                if span.secret
            ]
            text = f"{text}\n\n{beside}"
        if not spans:
            return False
        for secret in (True, False):
            found = {
                (span.kind, text[span.start : span.stop]): None
                for span in spans
                if span.secret == secret
            }
            self._rows[secret] += bool(found)
            self._kinds[secret].update(dict.fromkeys((kind for kind, _ in found), 1))
            for kind, value in found:
                if len(self._findings[secret]) < MAX_FINDINGS:
                    finding = Finding(kind, secret, ref_of(record), mask(value))
                    self._findings[secret].append(finding)
        return True

    def report(self) -> PrivacyReport:
        """Return what was found so far."""
        return PrivacyReport(
            secrets=tuple(self._findings[True]),
            personal=tuple(self._findings[False]),
            secret_kinds=dict(self._kinds[True].most_common()),
            personal_kinds=dict(self._kinds[False].most_common()),
            secret_rows=self._rows[True],
            personal_rows=self._rows[False],
        )


def scan(records: Iterable[Record]) -> PrivacyReport:
    """Return what looks like a secret or like personal data in `records`."""
    found = PrivacyScan()
    for record in records:
        found.add(record)
    return found.report()


def _spelled(meta: dict[str, Any]) -> str:
    """Return what is kept beside a row as text, with the line ends that its texts have."""
    return json.dumps(meta, ensure_ascii=False).replace("\\n", "\n")


def _candidates(text: str) -> Iterator[tuple[Form, bool]]:
    """Yield the forms that `text` may hold, and whether they are secrets.

    Most texts hold none of the hints, so this is where the time goes. A hint is looked for only
    where the text has the hint's rarest character, which is found in a tenth of the time; one hint
    after another in plain loops is three times faster than `any` over a generator.
    """
    lower = text.lower()
    held = {
        place
        for character, hints in _HINTS_BY_CHARACTER.items()
        if character in text
        for hint, place in hints
        if hint in text
    }
    for place in sorted(held):
        yield _EXACT_SECRETS[place], True
    for form in _FOLDED_SECRETS:
        for hint in form.hints:
            if hint in lower:
                yield form, True
                break
    if "@" not in text and not _DIGITS.search(text):
        return
    for form in PERSONAL_FORMS:
        if not form.hints or any(hint in text for hint in form.hints):
            yield form, False


_FOLDED_SECRETS: Final = tuple(f for f in SECRET_FORMS if f.pattern.flags & re.IGNORECASE)
# Providers' tokens come before what is merely assigned to a telling name.
_EXACT_SECRETS: Final = tuple(f for f in SECRET_FORMS if f not in _FOLDED_SECRETS)
_RARE: Final = "_=-:" + "QXZJKVWYUGPBHFMDLNRCOTISEA" + "zqxjkv."
"""Characters by how rare they are in prose, the rarest first, as far as hints have them."""


def _by_rarest_character(forms: Sequence[Form]) -> dict[str, list[tuple[str, int]]]:
    """Return the hints of `forms`, each with its form's place, by their rarest characters."""
    found: dict[str, list[tuple[str, int]]] = {}
    for place, form in enumerate(forms):
        for hint in form.hints:
            character = next((rare for rare in _RARE if rare in hint), hint[0])
            found.setdefault(character, []).append((hint, place))
    return found


_HINTS_BY_CHARACTER: Final = _by_rarest_character(_EXACT_SECRETS)
_DIGITS: Final = re.compile(r"\d[\d .:-]{2,}\d|[A-Z]{2}\d\d")
