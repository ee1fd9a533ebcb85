"""Counts over the rows of a data set, which have to add up."""

from collections.abc import Sequence
from dataclasses import dataclass

from llamaforge.data.records import Record, Rejection


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows there were, and what became of them."""

    read: int
    accepted: int
    """Rows that are used as they were."""
    rejected: int
    duplicates: int
    """Used rows whose conversation an earlier one has too."""
    repaired: int = 0
    """Rows that are used after a repair (`repairs.RULES`)."""
    repeated: int = 0
    """How often rows are used once more, because their source has a weight above 1; these count
    nowhere else."""

    def __post_init__(self) -> None:
        if self.read != self.kept + self.rejected or self.duplicates > self.kept:
            raise ValueError(f"row counts do not add up: {self}")

    @property
    def kept(self) -> int:
        """Rows that are used, repaired or not."""
        return self.accepted + self.repaired

    @property
    def rejected_fraction(self) -> float:
        """Rejected rows as a part of all, 0 to 1."""
        return self.rejected / self.read if self.read else 0.0


def count(
    read: int,
    records: Sequence[Record],
    rejected: Sequence[Rejection],
    *,
    repeated: int = 0,
) -> RowCounts:
    """Return the counts for `read` rows that became `records` and `rejected`."""
    distinct = len({record.id for record in records})
    repaired = sum(bool(record.repairs) for record in records)
    return RowCounts(
        read, len(records) - repaired, len(rejected), len(records) - distinct, repaired, repeated
    )
