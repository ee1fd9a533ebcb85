"""Rows that were frozen earlier, by runs or by hand: what can be learned from once more."""

from dataclasses import dataclass
from pathlib import Path

from llamaforge.data.library import PREFIX, snapshots
from llamaforge.runs.frozen_rows import runs_by_snapshot
from llamaforge.safe_text import safe_line

_SHOWN_RUNS = 2


@dataclass(frozen=True)
class FrozenRows:
    """One snapshot, in words; safe to print."""

    source: str
    """`snapshot:ID`, as it is named where files could be."""
    title: str
    words: str


def frozen_rows() -> tuple[FrozenRows, ...]:
    """Return what was frozen on this machine, the newest first."""
    users = runs_by_snapshot()
    found = []
    for item in snapshots():
        counts = item.manifest.counts
        first, *others = [Path(source.path).name for source in item.manifest.sources] or ["rows"]
        more = f" and {len(others)} more" if others else ""
        held = counts.validation + counts.test
        runs = ", ".join(users.get(item.manifest.id, ())[-_SHOWN_RUNS:])
        words = f"{counts.train:,} to learn, {held:,} held back, {item.kept.astimezone():%d %b %Y}"
        found.append(
            FrozenRows(
                f"{PREFIX}{item.short_id}",
                f"Frozen rows of {safe_line(first, limit=40)}{more}",
                safe_line(f"{words}; {runs}" if runs else words, limit=100),
            )
        )
    return tuple(found)
