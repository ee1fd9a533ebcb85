"""`llamaforge demo`: the whole way on the toy model and the rows that the package carries."""

import argparse
from typing import Final

from llamaforge import paths
from llamaforge.cli.options import add_json
from llamaforge.cli.output import confirm, has_dialogue, narrate
from llamaforge.errors import ExitCode

_NAME: Final = "demo"
_WORDS: Final = (
    "This is a toy: a language model of a few million weights that is shipped with the program, "
    "stored as Ollama stores its models. It is trained here, on this machine, to grade chat "
    "messages for a memory and to write facts as JSON; the rows are shipped as well. Everything "
    "is done as with a model of your own, only faster."
)


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "demo",
        help="train the built-in toy model, to see how everything works",
        description="Train the toy model that the program carries, prove the result, and show it "
        "before and after. Nothing is downloaded, and no Ollama is needed.",
    )
    parser.add_argument("--name", metavar="RUN", default=_NAME, help="the name of the run")
    parser.add_argument("--yes", action="store_true", help="do not ask before training")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Show the built-in store, train its model and print what came of it.

    Raises:
        LlamaForgeError: it cannot be begun, or the worker did not start.
    """
    from llamaforge.cli import models
    from llamaforge.cli.launching import carry_out, note
    from llamaforge.recipe.resolve import with_settings
    from llamaforge.wizard.beginning import create, prepare
    from llamaforge.wizard.demo import DEMO_MODEL, DEMO_SETTINGS

    body = {
        "name": arguments.name,
        "model": {"name": DEMO_MODEL},
        # The rows say themselves which of them are for testing.
        "data": {"sources": [paths.embedded_data()], "validation_fraction": 0.1},
    }
    recipe = with_settings(body, [f"{key}={value}" for key, value in DEMO_SETTINGS.items()])
    prepared = prepare(recipe, store=paths.embedded_store(), numbered=True, on_note=note)
    if not arguments.json:
        narrate(_folded(_WORDS))
        models.run(argparse.Namespace(stores=[paths.embedded_store()], json=False))
        if not arguments.yes and has_dialogue() and not confirm("Train it?"):
            narrate("Nothing was started.")
            return ExitCode.INTERRUPTED
    return carry_out(create(prepared), detach=False, as_json=arguments.json)


def _folded(words: str) -> str:
    import shutil
    import textwrap

    return textwrap.fill(words, max(20, min(shutil.get_terminal_size().columns, 100)))
