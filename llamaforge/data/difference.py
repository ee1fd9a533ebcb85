"""What changed from one version of some data to another: rows added, removed, answered anew."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from llamaforge.data.records import Record, prompt_key


@dataclass(frozen=True, slots=True)
class Change:
    """A prompt whose conversation is another one now."""

    before: Record
    after: Record


@dataclass(frozen=True, slots=True)
class Difference:
    """How the second version differs from the first; every row is counted once."""

    same: int
    """Rows that are in both, as often as they are."""
    added: tuple[Record, ...]
    removed: tuple[Record, ...]
    changed: tuple[Change, ...]
    """Rows with the same user messages and other answers, in pairs."""
    moved: int
    """Rows that are in both, on another side of the split."""

    @property
    def is_empty(self) -> bool:
        """Whether both hold the same rows on the same sides."""
        return not (self.added or self.removed or self.changed or self.moved)


Sides = dict[str, list[Record]]
UNDIVIDED = ""
"""The one side of rows that have not been divided: they are on no other side than any."""


def difference(before: Sides, after: Sides) -> Difference:
    """Compare two versions of some data, each with its records by side.

    Rows are told apart by their ids, so that source and position do not count.
    """
    if UNDIVIDED in before or UNDIVIDED in after:
        before, after = _undivided(before), _undivided(after)
    old, new = _by_id(before), _by_id(after)
    gone: list[Record] = []
    come: list[Record] = []
    same = moved = 0
    for key in old.keys() | new.keys():
        olds, news = old.get(key, []), new.get(key, [])
        both = min(len(olds), len(news))
        same += both
        stayed = sum((_sides(olds) & _sides(news)).values())
        moved += both - stayed
        gone += [record for _, record in olds[both:]]
        come += [record for _, record in news[both:]]
    changed, removed, added = _paired(gone, come)
    return Difference(same, tuple(added), tuple(removed), tuple(changed), moved)


def _undivided(sides: Sides) -> Sides:
    return {UNDIVIDED: [record for records in sides.values() for record in records]}


def _by_id(sides: Sides) -> dict[str, list[tuple[str, Record]]]:
    found: dict[str, list[tuple[str, Record]]] = defaultdict(list)
    for side, records in sides.items():
        for record in records:
            found[record.id].append((side, record))
    return found


def _sides(rows: Iterable[tuple[str, Record]]) -> Counter[str]:
    return Counter(side for side, _ in rows)


def _paired(
    gone: list[Record], come: list[Record]
) -> tuple[list[Change], list[Record], list[Record]]:
    """Pair rows that ask the same; return the pairs, and what is left on each side."""
    asked: dict[str, tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
    for place, records in enumerate((gone, come)):
        for record in sorted(records, key=lambda item: (item.source, item.row)):
            asked[prompt_key(record.messages)][place].append(record)
    changed: list[Change] = []
    removed: list[Record] = []
    added: list[Record] = []
    for olds, news in asked.values():
        for before, after in zip_longest(olds, news):
            if before is None:
                added.append(after)
            elif after is None:
                removed.append(before)
            else:
                changed.append(Change(before, after))
    for records in (removed, added):
        records.sort(key=lambda item: (item.source, item.row))
    changed.sort(key=lambda item: (item.after.source, item.after.row))
    return changed, removed, added
