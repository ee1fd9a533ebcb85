"""Words of the assistant that a chat template keeps from being learned, told to a person.

Some templates write a call of a tool and drop what is said beside it; others cut thoughts out of
earlier answers. A row is trained all the same, so somebody has to say it.
"""

from collections.abc import Sequence
from pathlib import Path

from llamaforge.data.privacy import mask_text
from llamaforge.data.records import Message
from llamaforge.data.row_refs import Example, RowRef, excerpt
from llamaforge.safe_text import safe_line
from llamaforge.words import plural


def unlearned_example(ref: RowRef, unlearned: Sequence[Message]) -> Example:
    """Return what is shown of a row with `unlearned` messages, at least one."""
    return Example(ref, excerpt(mask_text(unlearned[0].content)))


def unlearned_sentence(rows: int, beside: int, looked_at: int, first: Example) -> str:
    """Return one sentence for all rows, and one row as an example.

    Args:
        rows: rows with such words.
        beside: those of them in which the words stand beside a call of a tool.
        looked_at: rows that were rendered.
        first: the first of them.
    """
    what = "what the assistant says beside a call of a tool"
    if not beside:
        what = "what the assistant says in some of its turns"
    elif beside < rows:
        what += ", or in other turns,"
    place = f"{safe_line(Path(first.ref.source).name)} row {first.ref.row:,}"
    return (
        f"In {rows:,} of {plural(looked_at, 'row')} the chat template leaves out or changes "
        f"{what} so that it is not learned. The first: {place}, “{first.text}”."
    )
