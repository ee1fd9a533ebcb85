"""An even sample of a run's rows in tokens: enough to say how long training takes."""

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.check import streamed, take_in_nothing
from llamaforge.data.encoding import one_sided
from llamaforge.data.library import find
from llamaforge.data.records import Record, RowError
from llamaforge.data.row_refs import text_bytes
from llamaforge.data.snapshot import read_snapshot
from llamaforge.data.templates import choose_template
from llamaforge.gguf.header import Header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.estimate import RowSizes
from llamaforge.recipe.spec import RunSpec
from llamaforge.worker.limits import MOST_RENDERED_BYTES, TooSlow, program_limits

_ROWS: Final = 400
_LONGEST: Final = 8
"""Rows with the most text are rendered too: a batch has to fit whatever it holds."""
_ROW_SECONDS: Final = 5.0
_MOST_GIVEN_UP: Final = 10


@dataclass
class RowSample:
    """Rows of a run, and what is known of the others."""

    sizes: RowSizes
    rendered: int = 0
    seconds_a_row: float = 0.0
    """What rendering a row and cutting it into tokens takes."""
    left_out: int = 0
    """Sampled rows that cannot be used with this model."""
    on_the_hub: bool = False
    """Whether some sources are datasets of the Hub: nothing is downloaded for a plan."""


@dataclass
class _Reservoir:
    """A number of items, each with the same chance, and those of the largest size."""

    draw: random.Random
    items: list[Record] = field(default_factory=list)
    largest: list[tuple[int, int, Record]] = field(default_factory=list)
    seen: int = 0

    def take(self, record: Record) -> None:
        self.seen += 1
        if len(self.items) < _ROWS:
            self.items.append(record)
        elif (place := self.draw.randrange(self.seen)) < _ROWS:
            self.items[place] = record
        size = text_bytes(record.messages + (record.chosen or record.rejected))
        if len(self.largest) < _LONGEST or size > self.largest[-1][0]:
            self.largest.append((size, self.seen, record))
            self.largest.sort(key=lambda item: -item[0])
            del self.largest[_LONGEST:]


def sampled(spec: RunSpec, header: Header) -> RowSample:
    """Return some hundred rows of a run in tokens, and how many there are.

    Raises:
        LlamaForgeError: the rows, the tokenizer or its template cannot be read.
    """
    data = spec.data
    local = [source for source in data.sources if not source.is_on_the_hub]
    reservoir = _Reservoir(random.Random(spec.training.seed))  # noqa: S311 - not for secrets
    held_out = 0
    for found, held in _records(spec, local):
        for record in one_sided(found) if spec.training.learns_from_labels else [found]:
            held_out += held
            if not held:
                reservoir.take(record)
    length = data.max_length or spec.model.context_length
    on_the_hub = len(local) < len(data.sources)
    if not reservoir.seen:
        return RowSample(RowSizes(((length, length),), 1), on_the_hub=on_the_hub)
    sample = _encoded(spec, header, reservoir, length)
    rows, validation = reservoir.seen, held_out
    if data.snapshot is None:
        validation += data.validation_count or round(data.validation_fraction * rows)
        held_out += data.test_count or round(data.test_fraction * rows)
        rows = max(1, rows - (data.validation_count or round(data.validation_fraction * rows)))
        rows = max(1, rows - (data.test_count or round(data.test_fraction * rows)))
    known = sample.sizes.train
    sample.sizes = RowSizes(
        train=known,
        train_rows=rows,
        validation=known[: max(1, min(len(known), validation))] if validation else (),
        validation_rows=validation,
        longest_known=sample.sizes.longest_known,
    )
    sample.on_the_hub = on_the_hub
    return sample


def _records(spec: RunSpec, local: list) -> Iterator[tuple[Record, bool]]:  # type: ignore[type-arg]
    """Yield each row, and whether it is surely held out."""
    data = spec.data
    if data.snapshot is not None:
        _, splits = read_snapshot(find(data.snapshot).folder)
        for side, records in splits.items():
            for record in records:
                yield record, side != "train"
    elif local:
        intake = take_in_nothing(local, choices=data.choices, brief=True)
        for record in streamed(intake, seed=data.split_seed):
            yield record, record.split in {"validation", "test"}


def _encoded(spec: RunSpec, header: Header, reservoir: _Reservoir, length: int) -> RowSample:
    tokenizer = GgufTokenizer(header)
    template = choose_template(
        spec.model.chat_template, tokenizer.chat_template, tokenizer.special_ids
    )
    with program_limits(_ROW_SECONDS):
        renderer = ChatRenderer(tokenizer, template, spec.created)
    started = time.monotonic()
    usual = list(_sizes(spec, renderer, reservoir.items, length))
    seconds = time.monotonic() - started
    long = list(_sizes(spec, renderer, (item for _, _, item in reservoir.largest), length))
    longest = max((tokens for tokens, _ in (*usual, *long)), default=length)
    return RowSample(
        RowSizes(tuple(usual) or ((length, length),), len(usual), longest_known=longest),
        rendered=len(usual),
        seconds_a_row=seconds / max(len(reservoir.items), 1),
        left_out=len(reservoir.items) - len(usual),
    )


def _sizes(
    spec: RunSpec, renderer: ChatRenderer, records: Iterable[Record], length: int
) -> Iterator[tuple[int, int]]:
    """Yield tokens and trained tokens of each row that can be used."""
    given_up = 0
    for record in records:
        messages = (*record.messages, *(record.chosen or record.rejected))
        if given_up >= _MOST_GIVEN_UP or text_bytes(messages) > MOST_RENDERED_BYTES:
            continue
        try:
            with program_limits(_ROW_SECONDS):
                row = renderer.encode_within(messages, length, train_on=spec.data.train_on)
        except (TooSlow, MemoryError):
            given_up += 1
        except RowError as error:
            given_up += isinstance(error.__cause__, TooSlow | MemoryError)
        else:
            both = 2 if spec.training.learns_from_pairs else 1
            yield both * len(row.ids), both * sum(row.trained)
