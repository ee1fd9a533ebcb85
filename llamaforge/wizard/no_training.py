"""The way without training: a system text and some rows as examples, as a Modelfile."""

from pathlib import Path
from typing import Final

from llamaforge.data.formats import read_records
from llamaforge.data.mapping import Mapping
from llamaforge.data.records import Record
from llamaforge.errors import NotFoundError, RefusedError
from llamaforge.export.modelfile import modelfile_text, two_commands
from llamaforge.files import write_atomic
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.row_files import RowFiles, map_for

EXAMPLES: Final = 4
_LONGEST: Final = 2_000
"""Characters of an example: they are sent along with every question."""


def examples(draft: Draft, files: RowFiles, count: int = EXAMPLES) -> list[dict[str, str]]:
    """Return some short conversations of the draft's rows as messages, from different places.

    Args:
        draft: says how rows are read.
        files: what its sources stand for.
        count: of conversations.

    Raises:
        LlamaForgeError: a file cannot be read.
        RefusedError: there is no row that is short enough (`no_examples`).
    """
    short: list[Record] = []
    for number, path in enumerate(files.paths):
        text = map_for(draft, files, number)
        mapping = None if text is None else Mapping.parse(text)
        enough = 50 * count * (number + 1) // len(files.paths)
        for item in read_records(path, preference="chosen", mapping=mapping):
            if isinstance(item, Record) and _length(item) <= _LONGEST:
                short.append(item)
            if len(short) >= enough:
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


def write_modelfile(path: Path, draft: Draft, files: RowFiles, name: str) -> list[str]:
    """Write the Modelfile and return the commands that make and run the model `name` with it.

    Raises:
        NotFoundError: the draft's rows cannot be found.
        LlamaForgeError: a file cannot be read, or a text cannot stand in a Modelfile.
    """
    if files.problem:
        raise NotFoundError(files.problem, "Name files with rows.", code="no_rows")
    messages = examples(draft, files) if files.paths else []
    text = modelfile_text(draft.model, None, system=draft.system or None, messages=messages)
    commands = two_commands(name, path)
    write_atomic(path, text, mode=0o644)
    return commands


def _length(record: Record) -> int:
    return sum(len(turn.content) for turn in record.messages)
