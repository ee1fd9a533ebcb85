"""`llamaforge data`: look at rows before training, and at those that were frozen."""

import argparse
import importlib
from typing import Final

from llamaforge.errors import ExitCode

ACTIONS: Final = {
    "check": "llamaforge.cli.data_check",
    "preview": "llamaforge.cli.data_show",
    "list": "llamaforge.cli.data_list",
    "diff": "llamaforge.cli.data_diff",
    "convert": "llamaforge.cli.data_convert",
    "generate": "llamaforge.cli.data_generate",
    "pairs": "llamaforge.cli.data_pairs",
    "review": "llamaforge.cli.data_review",
}
"""Each action's module, which has `add_parser`."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "data",
        help="check, compare and prepare rows",
        description="Look at rows before a model is trained on them, and at those that were.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for module in ACTIONS.values():
        importlib.import_module(module).add_parser(actions)
    parser.set_defaults(run=_no_action)


def _no_action(arguments: argparse.Namespace) -> ExitCode:
    raise AssertionError(f"no action in {arguments}")  # argparse asks for one
