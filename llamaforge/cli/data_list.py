"""`llamaforge data list`: the rows that were frozen, and which runs were trained on them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.cli.options import add_json
from llamaforge.cli.output import narrate, print_json
from llamaforge.cli.rows import Column, RowPrinter
from llamaforge.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamaforge.data.library import KeptSnapshot


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action."""
    parser = actions.add_parser(
        "list",
        help="the rows that were frozen for runs",
        description="List the snapshots of rows that runs were trained on, the newest first. "
        "Train on one again with: llamaforge train --data snapshot:ID",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the snapshots."""
    from llamaforge.data.library import snapshots
    from llamaforge.runs.frozen_rows import runs_by_snapshot

    users = runs_by_snapshot()
    found = snapshots()
    if arguments.json:
        print_json([_body(item, users.get(item.manifest.id, ())) for item in found])
        return ExitCode.DONE
    if not found:
        narrate("No rows were frozen yet; every run freezes the rows that it is trained on.")
        return ExitCode.DONE
    printer = RowPrinter(
        [
            Column("ID", 16), Column("TRAIN", 9, right=True), Column("HELD OUT", 9, right=True),
            Column("KEPT", 16), Column("FROM, AND TRAINED ON BY", 40),
        ]
    )  # fmt: skip
    printer.head()
    for item in found:
        counts = item.manifest.counts
        names = ", ".join(Path(source.path).name for source in item.manifest.sources)
        runs = ", ".join(users.get(item.manifest.id, ()))
        printer.row(
            [
                item.short_id, f"{counts.train:,}", f"{counts.validation + counts.test:,}",
                item.kept.astimezone().strftime("%Y-%m-%d %H:%M"),
                f"{names}; {runs}" if runs else names,
            ]
        )  # fmt: skip
    return ExitCode.DONE


def _body(item: "KeptSnapshot", runs: "Sequence[str]") -> dict[str, Any]:
    return {
        "id": item.manifest.id,
        "folder": str(item.folder),
        "kept": item.kept.isoformat(),
        "counts": item.manifest.counts.model_dump(),
        "sources": [source.model_dump() for source in item.manifest.sources],
        "runs": list(runs),
    }
