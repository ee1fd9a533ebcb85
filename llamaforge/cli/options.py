"""Options that several verbs have, so that they are spelled and explained in one way."""

import argparse
from pathlib import Path
from typing import Final

READING: Final = {"map": None, "preference": "refuse", "images": "refuse", "allow_secrets": False}
"""What `add_reading` adds, by the recipe's names, with what each is where it is not given."""


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add `--store DIR`; the chosen folder is in `arguments.store`, or None."""
    parser.add_argument(
        "--store",
        type=_folder,
        metavar="DIR",
        help="the Ollama store to use instead of Ollama's own places",
    )


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Add `--store DIR`, which may be given again; `arguments.stores` is the list of them."""
    parser.add_argument(
        "--store",
        type=_folder,
        action="append",
        default=[],
        dest="stores",
        metavar="DIR",
        help="an Ollama store to look at instead of Ollama's own places; may be given again",
    )


def add_json(parser: argparse.ArgumentParser, *, inherited: bool = False) -> None:
    """Add `--json`; `arguments.json` says whether it was given.

    With `inherited` the option is left as an outer parser has set it where it is not given.
    """
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS if inherited else False,
        help="print JSON and nothing else to standard output",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN; the name is in `arguments.run_name`."""
    parser.add_argument("run_name", metavar="RUN", help="a run's name, or latest")


def add_mapping(parser: argparse.ArgumentParser) -> None:
    """Add `--map`; the text is in `arguments.map`, or None."""
    parser.add_argument(
        "--map",
        metavar="PART=COLUMN,…",
        help="what the columns are, such as prompt=question,completion=answer, or text=body to "
        "train on texts as they stand",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add what a person may choose about the rows of data files."""
    add_mapping(parser)
    parser.add_argument(
        "--preference",
        choices=("refuse", "chosen", "pairs", "labelled"),
        default="refuse",
        help="preference pairs are refused (the default), or their better answers trained on, or "
        "both held against each other, as train --method dpo does by itself; or every answer is "
        "taken with its label, good or bad, as train --method kto does (labelled)",
    )
    parser.add_argument(
        "--images",
        choices=("refuse", "drop", "link"),
        default="refuse",
        help="rows with images are refused (the default), or used without them, or with their "
        "links as text",
    )
    parser.add_argument(
        "--allow-secrets",
        action="store_true",
        help="rows may hold what looks like keys and tokens",
    )


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of a folder is needed")
    return Path(text).expanduser().absolute()
