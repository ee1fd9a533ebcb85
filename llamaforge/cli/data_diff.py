"""`llamaforge data diff A B`: what changed from one version of some rows to another."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.options import add_json, add_mapping
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.data.difference import Difference, Sides
    from llamaforge.data.mapping import Mapping
    from llamaforge.data.records import Record

_SHOWN: Final = 10
_WIDTH: Final = 72


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action."""
    parser = actions.add_parser(
        "diff",
        help="rows added, removed and changed between two versions",
        description="Compare two versions of some rows. Each is a run's name, a snapshot's id or "
        "a data file. The exit code is 0 if they hold the same rows, and 1 if not.",
    )
    parser.add_argument("before", metavar="A", help="a run, a snapshot's id or a data file")
    parser.add_argument("after", metavar="B", help="the same, to compare with it")
    add_mapping(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the difference.

    Raises:
        NotFoundError: there is no such run, snapshot or file.
        LlamaForgeError: one of them cannot be read.
    """
    from llamaforge.data.difference import difference
    from llamaforge.data.mapping import Mapping

    mapping = Mapping.parse(arguments.map) if arguments.map else None
    found = difference(_rows(arguments.before, mapping), _rows(arguments.after, mapping))
    if arguments.json:
        print_json(_body(found))
    else:
        _print(found)
    return ExitCode.DONE if found.is_empty else ExitCode.FAILED


def _rows(text: str, mapping: "Mapping | None") -> "Sides":
    """Return the rows of a run, a snapshot or a file, by side; a file's are not divided.

    `mapping` says what the columns of a file are.
    """
    from llamaforge.data import library
    from llamaforge.data.difference import UNDIVIDED
    from llamaforge.data.formats import read_records
    from llamaforge.data.records import Record
    from llamaforge.data.snapshot import read_snapshot
    from llamaforge.errors import NotFoundError, UsageError
    from llamaforge.runs.directory import open_run

    path = Path(text).expanduser()
    if path.is_file():
        items = list(read_records(path, mapping=mapping))
        found = [item for item in items if isinstance(item, Record)]
        if len(found) < len(items):
            narrate(
                f"{len(items) - len(found):,} of {plural(len(items), 'row')} of "
                f"{safe_line(path.name)} "
                f"cannot be used, so not compared. See: llamaforge data check "
                f"{safe_line(text)}"
            )
        return {UNDIVIDED: found}
    try:
        return read_snapshot(open_run(text).data)[1]
    except (NotFoundError, UsageError):
        pass
    try:
        return read_snapshot(library.find(text.removeprefix(library.PREFIX)).folder)[1]
    except (NotFoundError, UsageError) as error:
        raise NotFoundError(
            f"There is no run, snapshot or file {safe_line(text, limit=80)}.",
            "See them with: llamaforge runs, llamaforge data list",
            code="no_rows",
        ) from error


def _print(found: "Difference") -> None:
    print_text(
        f"{plural(found.same, 'row')} in both"
        + (f", {found.moved:,} of them on another side" if found.moved else "")
        + f"; {len(found.added):,} added, {len(found.removed):,} removed, "
        f"{len(found.changed):,} answered anew."
    )
    _print_part("Added", "+", found.added)
    _print_part("Removed", "-", found.removed)
    if found.changed:
        print_text("\nAnswered anew")
        for change in found.changed[:_SHOWN]:
            print_text(f"  {_asked(change.after)}")
            print_text(f"    - {_answer(change.before)}")
            print_text(f"    + {_answer(change.after)}")
        _print_more(len(found.changed))


def _print_part(title: str, sign: str, records: "Sequence[Record]") -> None:
    if not records:
        return
    print_text(f"\n{title}")
    for record in records[:_SHOWN]:
        print_text(f"  {sign} {_asked(record)} → {_answer(record)}")
    _print_more(len(records))


def _print_more(count: int) -> None:
    if count > _SHOWN:
        print_text(f"  and {count - _SHOWN:,} more; see them all with --json")


def _asked(record: "Record") -> str:
    text = next((turn.content for turn in record.messages if turn.role == "user"), "")
    return safe_line(text, limit=_WIDTH)


def _answer(record: "Record") -> str:
    turns = [*record.messages, *record.chosen]
    text = next((turn.words for turn in reversed(turns) if turn.role == "assistant"), "")
    return safe_line(text, limit=_WIDTH)


def _body(found: "Difference") -> dict[str, Any]:
    return {
        "same": found.same,
        "moved": found.moved,
        "added": [_row(record) for record in found.added],
        "removed": [_row(record) for record in found.removed],
        "changed": [
            {"before": _row(change.before), "after": _row(change.after)} for change in found.changed
        ],
    }


def _row(record: "Record") -> dict[str, Any]:
    import json

    from llamaforge.data.records import canonical_line

    body: dict[str, Any] = json.loads(canonical_line(record))
    return body
