"""`llamaforge data convert SOURCE… --to FORM --out FILE`: rows of any format in one form."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.options import add_json, add_mapping
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.data.records import Rejection

_FORMS: Final = ("chat", "prompt-completion", "preference", "openpipe", "sharegpt")
_SHOWN: Final = 20
_LISTED: Final = 1_000


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action to the parser of `data`."""
    parser = actions.add_parser(
        "convert",
        help="write rows in another form",
        description="Write the rows of data files in one form, as JSON Lines. A row that the form "
        "cannot hold is left out and listed with the reason, or changed by a rule with --fold.",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="a data file")
    parser.add_argument("--to", required=True, dest="form", choices=_FORMS, help="the form")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the file; .gz at its end packs it"
    )
    parser.add_argument(
        "--fold",
        action="store_true",
        help="change what the form cannot hold: a system text goes before the question "
        "(prompt-completion), a pair loses its rejected answer (forms without pairs), "
        "validation becomes TEST (openpipe)",
    )
    parser.add_argument(
        "--as-messages",
        action="store_true",
        help="prompt-completion: write lists of messages, which hold system texts and many turns",
    )
    parser.add_argument("--force", action="store_true", help="replace the file at --out")
    add_mapping(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Write the file, and print what became of the rows.

    Raises:
        LlamaForgeError: as `convert`; then nothing was written.
    """
    from llamaforge.data.convert import Rules, convert
    from llamaforge.data.mapping import Mapping

    listed = _Listed(is_shown=not arguments.json)
    out = arguments.out.expanduser().absolute()
    done = convert(
        [path.expanduser() for path in arguments.sources],
        arguments.form,
        out,
        rules=Rules(fold=arguments.fold, as_messages=arguments.as_messages),
        force=arguments.force,
        mapping=Mapping.parse(arguments.map) if arguments.map else None,
        on_rejected=listed.take,
    )
    if arguments.json:
        body: dict[str, Any] = {
            "out": str(out),
            "form": arguments.form,
            "rows": asdict(done),
            "rejected": listed.rows,
        }
        print_json(body)
        return ExitCode.DONE
    listed.say_rest()
    changed = f", {done.folded:,} of them changed by a rule" if done.folded else ""
    print_text(
        f"{plural(done.read, 'row')} read: {done.written:,} written{changed}, {done.rejected:,} "
        f"left out."
    )
    print_text(safe_line(str(out)))
    return ExitCode.DONE


class _Listed:
    """The rows that were left out: the first for each reason said at once, more kept for JSON."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self.rows: list[dict[str, Any]] = []
        self._reasons: set[str] = set()
        self._unsaid = 0

    def take(self, row: "Rejection") -> None:
        """Take one row that is not written."""
        if self._is_shown and row.reason not in self._reasons and len(self._reasons) < _SHOWN:
            self._reasons.add(row.reason)
            narrate(f"left out: {safe_line(row.source)} row {row.row:,}: {row.reason}")
        else:
            self._unsaid += 1
        if len(self.rows) >= _LISTED:
            return
        self.rows.append({"source": row.source, "line": row.row, "reason": row.reason})

    def say_rest(self) -> None:
        """Say how many more rows were left out than those that were named."""
        if self._unsaid:
            narrate(f"left out: {self._unsaid:,} more; --json names them")
