"""The way without training: a system text and some rows as examples, as a Modelfile."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llamaforge.data.formats import read_records
from llamaforge.data.records import Record
from llamaforge.data.sources import expand, parse_source
from llamaforge.errors import RefusedError
from llamaforge.export.modelfile import modelfile_text, two_commands
from llamaforge.files import write_atomic

EXAMPLES: Final = 4
_LONGEST: Final = 2_000
"""Characters of an example: they are sent along with every question."""


def examples(sources: Sequence[str], count: int = EXAMPLES) -> list[dict[str, str]]:
    """Return some short conversations of the sources as messages, from different places of them.

    Raises:
        LlamaForgeError: a source cannot be read.
        RefusedError: there is no row that is short enough (`no_examples`).
    """
    files = expand([parse_source(text) for text in sources]).paths
    short: list[Record] = []
    for path in files:
        for item in read_records(path, preference="chosen"):
            if isinstance(item, Record) and _length(item) <= _LONGEST:
                short.append(item)
            if len(short) >= 50 * count:
                break
    if not short:
        raise RefusedError(
            "No row is short enough to be an example.",
            "Train on the rows instead, or write shorter ones.",
            code="no_examples",
        )
    step = max(1, len(short) // count)
    return [
        {"role": turn.role, "content": turn.content}
        for record in short[::step][:count]
        for turn in record.messages
        if turn.role in {"user", "assistant"}
    ]


def write_modelfile(
    path: Path, model: str, system: str, sources: Sequence[str], name: str
) -> list[str]:
    """Write the Modelfile and return the commands that make and run the model `name` with it.

    Raises:
        LlamaForgeError: a source cannot be read, or a text cannot stand in a Modelfile.
    """
    messages = examples(sources) if sources else []
    text = modelfile_text(model, None, system=system or None, messages=messages)
    commands = two_commands(name, path)
    write_atomic(path, text, mode=0o644)
    return commands


def _length(record: Record) -> int:
    return sum(len(turn.content) for turn in record.messages)
