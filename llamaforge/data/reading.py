"""One row's object becomes a record, by what a person chose; trees become records at the end."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

from llamaforge.data.containers import Row
from llamaforge.data.images import Images
from llamaforge.data.json_row import kind
from llamaforge.data.mapping import Mapping
from llamaforge.data.preference import Pair, mended_pair
from llamaforge.data.records import (
    SPLIT_NAMES,
    Record,
    Rejection,
    RowError,
    canonical_json,
    record_id,
)
from llamaforge.data.repairs import Mender
from llamaforge.data.shapes import PREFERENCE, TREE, Reading, conversation_of, pair_of, shape_of
from llamaforge.data.trees import Forest, TreeItem, is_tree_message
from llamaforge.data.turns import TurnChoices
from llamaforge.safe_text import safe_line

Want = Literal["sft", "preference", "any"]
"""What rows are read for: conversations to learn from, preference pairs, or each as what it is."""
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
        """Yield what each of `rows` comes to in order, then what the trees among them come to."""
        forest: Forest | None = None
        try:
            for row in rows:
                if isinstance(row, Rejection):
                    yield row
                    continue
                if self._is_tree(row):
                    forest = forest or Forest()
                    if (problem := self._planted(forest, row)) is not None:
                        yield problem
                    continue
                yield self.record(row)
            if forest is not None:
                want: Literal["pairs", "conversation"] = (
                    "pairs" if self._choices.want == "preference" else "conversation"
                )
                with closing(forest.items(want)) as items:
                    for item in items:
                        yield self._tree_record(item)
        finally:
            if forest is not None:
                forest.close()

    def record(self, row: Row) -> Record | Rejection:
        """Return what a row comes to that is no part of a tree."""
        try:
            mapping = self._choices.mapping
            fields = row.fields if mapping is None else mapping.apply(row.fields)
            found = self._reading(fields)
            return self._made(row.row, found, _split(fields.get("split")), _meta(fields))
        except RowError as error:
            return Rejection(self._source, row.row, str(error))

    def _reading(self, fields: dict[str, Any]) -> Reading:
        want = self._choices.want
        is_pair = shape_of(fields).name == PREFERENCE
        if want == "preference" or (is_pair and want == "any"):
            return pair_of(fields, self._turns)
        if is_pair and self._choices.preference == "chosen":
            pair = pair_of(fields, self._turns)
            return Reading((*pair.messages, *pair.chosen), repairs=pair.repairs)
        return conversation_of(fields, self._turns)

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

    def _is_tree(self, row: Row) -> bool:
        mapping = self._choices.mapping
        columns_are_mapped = mapping is not None and bool(mapping.columns)
        return not columns_are_mapped and shape_of(row.fields).name == TREE

    def _planted(self, forest: Forest, row: Row) -> Rejection | None:
        plant: Callable[[int, dict[str, Any]], None] = (
            forest.add if is_tree_message(row.fields) else forest.add_nested
        )
        try:
            plant(row.row, row.fields)
        except RowError as error:
            return Rejection(self._source, row.row, str(error))
        return None

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
        given = safe_line(repr(value), limit=40) if isinstance(value, str) else kind(value)
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
