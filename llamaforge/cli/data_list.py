"""`llamaforge data list`: the rows that were frozen, and which runs were trained on them."""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.cli.options import add_json
from llamaforge.cli.output import narrate, print_json
from llamaforge.cli.rows import Column, RowPrinter
from llamaforge.errors import ExitCode

if TYPE_CHECKING:
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

    users = _users()
    found = snapshots()
    if arguments.json:
        print_json([_body(item, users[item.manifest.id]) for item in found])
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
        runs = ", ".join(users[item.manifest.id])
        printer.row(
            [
                item.short_id, f"{counts.train:,}", f"{counts.validation + counts.test:,}",
                item.kept.astimezone().strftime("%Y-%m-%d %H:%M"),
                f"{names}; {runs}" if runs else names,
            ]
        )  # fmt: skip
    return ExitCode.DONE


def _body(item: "KeptSnapshot", runs: list[str]) -> dict[str, Any]:
    return {
        "id": item.manifest.id,
        "folder": str(item.folder),
        "kept": item.kept.isoformat(),
        "counts": item.manifest.counts.model_dump(),
        "sources": [source.model_dump() for source in item.manifest.sources],
        "runs": runs,
    }


def _users() -> dict[str, list[str]]:
    """Return the runs that were trained on each snapshot, by its id."""
    from llamaforge import paths

    found: dict[str, list[str]] = defaultdict(list)
    for manifest in sorted(paths.runs_folder().glob("*/data/manifest.json")):
        try:
            body = json.loads(manifest.read_bytes())
            found[str(body["id"])].append(manifest.parents[1].name)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
