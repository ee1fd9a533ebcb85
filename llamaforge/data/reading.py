"""One row's object becomes a record, by what a person chose; trees become records at the end."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

from llamaforge.data.containers import Row
from llamaforge.data.images import Images
from llamaforge.data.json_row import kind
from llamaforge.data.mapping import Mapping
from llamaforge.data.preference import Pair, mended_pair
from llamaforge.data.privacy import masked_line
from llamaforge.data.records import (
    SPLIT_NAMES,
    Record,
    Rejection,
    RowError,
    canonical_json,
    record_id,
)
from llamaforge.data.repairs import Mender
from llamaforge.data.shapes import (
    PREFERENCE,
    TREE,
    Reading,
    Shape,
    conversation_of,
    labelled_of,
    pair_of,
    raw_text_of,
    shape_of,
)
from llamaforge.data.trees import Forest, TreeItem, is_tree_message
from llamaforge.data.turns import TurnChoices
from llamaforge.errors import RefusedError
from llamaforge.safe_text import safe_line

Want = Literal["sft", "preference", "labelled", "any"]
"""What rows are read for: conversations to learn from, preference pairs, answers that are labelled
good or bad, or each as what it is."""
Preference = Literal["refuse", "chosen"]
"""What becomes of a pair where conversations are wanted: refused, or its better answer is one."""

CHOSEN_HINT: Final = "To train on the better answers, give --preference chosen."


@dataclass(frozen=True, slots=True)
class ReadChoices:
    """What a person chose about the rows of a file."""

    want: Want = "sft"
    preference: Preference = "refuse"
    images: Images = "refuse"
    mapping: Mapping | None = None

    @property
    def turns(self) -> TurnChoices:
        """What of it is about messages."""
        if self.mapping is None:
            return TurnChoices(self.images)
        return TurnChoices(
            self.images, self.mapping.roles, self.mapping.role_key, self.mapping.content_key
        )


class RecordReader:
    """Makes records of the rows of one file."""

    def __init__(self, source: str, choices: ReadChoices) -> None:
        self._source = source
        self._choices = choices
        self._turns = choices.turns

    def records(self, rows: Iterable[Row | Rejection]) -> Iterator[Record | Rejection]:
        """Yield what each of `rows` comes to in order, then what the trees among them come to.

        Raises:
            RefusedError: there is no room to gather trees in (`no_room`).
        """
        forest: Forest | None = None
        try:
            for row in rows:
                if isinstance(row, Rejection):
                    yield row
                    continue
                try:
                    fields, shape = self._seen(row)
                    if shape.name != TREE:
                        yield self._read(row.row, fields, shape)
                        continue
                    forest = forest or Forest()
                    plant = forest.add if is_tree_message(fields) else forest.add_nested
                    plant(row.row, fields)
                except RowError as error:
                    yield Rejection(self._source, row.row, str(error))
            if forest is not None:
                wants_pairs = self._choices.want in {"preference", "labelled"}
                with closing(forest.items("pairs" if wants_pairs else "conversation")) as items:
                    for item in items:
                        yield self._tree_record(item)
        except sqlite3.Error as error:
            reason = safe_line(str(error), limit=120)
            raise RefusedError(
                f"The trees of {safe_line(self._source)} cannot be gathered on disk: {reason}.",
                "Free some space for temporary files, or name another folder by SQLITE_TMPDIR.",
                code="no_room",
            ) from error
        finally:
            if forest is not None:
                forest.close()

    def record(self, row: Row) -> Record | Rejection:
        """Return what a row comes to by itself, which is nothing for a part of a tree."""
        try:
            return self._read(row.row, *self._seen(row))
        except RowError as error:
            return Rejection(self._source, row.row, str(error))

    def _seen(self, row: Row) -> tuple[dict[str, Any], Shape]:
        """Return a row under the names of a known format, and which that is."""
        mapping = self._choices.mapping
        fields = row.fields if mapping is None else mapping.apply(row.fields)
        return fields, shape_of(fields)

    def _read(self, row: int, fields: dict[str, Any], shape: Shape) -> Record:
        found = self._reading(fields, shape)
        return self._made(row, found, _split(fields.get("split")), _meta(fields))

    def _reading(self, fields: dict[str, Any], shape: Shape) -> Reading:
        want, mapping = self._choices.want, self._choices.mapping
        if mapping is not None and mapping.is_raw_text and want in {"sft", "any"}:
            return raw_text_of(fields)
        if want == "labelled":
            return labelled_of(fields, self._turns, shape)
        is_pair = shape.name == PREFERENCE
        if want == "preference" or (is_pair and want == "any"):
            return pair_of(fields, self._turns, shape)
        if is_pair and self._choices.preference == "chosen":
            pair = pair_of(fields, self._turns, shape)
            return Reading((*pair.messages, *pair.chosen), repairs=pair.repairs)
        return conversation_of(fields, self._turns, shape)

    def _made(self, row: int, found: Reading, split: str | None, meta: dict[str, Any]) -> Record:
        try:
            return Record(
                record_id(found.messages, found.chosen, found.rejected),
                self._source,
                row,
                found.messages,
                split,
                meta,
                found.chosen,
                found.rejected,
                found.repairs,
            )
        except UnicodeEncodeError:
            raise RowError("a text holds half a character (a lone surrogate)") from None

    def _tree_record(self, item: TreeItem) -> Record | Rejection:
        try:
            return self._made(item.row, _mended(item), None, {"tree": item.tree})
        except RowError as error:
            return Rejection(self._source, item.row, str(error))


def _mended(item: TreeItem) -> Reading:
    mender = Mender()
    match item.found:
        case RowError() as error:
            raise error
        case Pair() as pair:
            pair = mended_pair(pair, mender)
            prompt, chosen, rejected = map(tuple, (pair.prompt, pair.chosen, pair.rejected))
            return Reading(prompt, chosen, rejected, mender.rules)
        case turns:
            return Reading(tuple(mender.conversation(turns)), repairs=mender.rules)


def _split(value: object) -> str | None:
    if value is None:
        return None
    side = SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if side is None:
        given = masked_line(repr(value), limit=40) if isinstance(value, str) else kind(value)
        raise RowError(f"split is {given}, not train, validation or test")
    return side


def _meta(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a row's `meta`; what is not an object is kept under that name in a new one."""
    value = fields.get("meta")
    if value is None:
        return {}
    try:
        canonical_json(value)
    except UnicodeEncodeError:
        raise RowError("meta holds half a character (a lone surrogate)") from None
    return value if isinstance(value, dict) else {"meta": value}
