"""`llamaforge data preview FILE --model MODEL`: a row as the model will see it."""

import argparse
from pathlib import Path

from llamaforge.cli.options import add_json, add_store
from llamaforge.errors import ExitCode

_DEFAULT_LENGTH = 2048


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action."""
    parser = actions.add_parser(
        "preview",
        help="see rows token by token, as the model will",
        description="Show rows rendered with the model's own chat template, token by token, with "
        "those that are trained marked; and whether Ollama's template asks in the same words. The "
        "exit code is 3 if a row shown cannot be trained on.",
    )
    parser.add_argument("data", type=Path, metavar="FILE", help="a data file")
    parser.add_argument("--model", required=True, metavar="NAME", help="the model")
    parser.add_argument(
        "--row",
        type=int,
        nargs="+",
        default=[1],
        dest="rows",
        metavar="N",
        help="which rows: lines of a file of lines or a table, else positions; 1 without it",
    )
    add_store(parser)
    parser.add_argument(
        "--map",
        metavar="PART=COLUMN,…",
        help="what the columns are, such as prompt=question,completion=answer",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        default=_DEFAULT_LENGTH,
        metavar="TOKENS",
        help=f"tokens that a row may have; {_DEFAULT_LENGTH:,} without it",
    )
    parser.add_argument(
        "--train-on",
        choices=("all", "last"),
        default="all",
        help="train every answer of a conversation, or the last alone",
    )
    parser.add_argument("--chat-template", metavar="NAME", help="instead of the model's own")
    parser.add_argument("--whitespace", action="store_true", help="make white space visible")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the rows.

    Raises:
        LlamaForgeError: the model, its template, the file or a row of it cannot be used at all.
    """
    from pydantic import ValidationError

    from llamaforge.cli.data_preview import print_answer
    from llamaforge.data.containers import require_file
    from llamaforge.data.preview_request import PreviewRequest
    from llamaforge.errors import UsageError
    from llamaforge.runs.previews import ask
    from llamaforge.safe_text import safe_line

    path = arguments.data.expanduser().absolute()
    require_file(path)
    try:
        request = PreviewRequest(
            model=arguments.model,
            store=None if arguments.store is None else str(arguments.store),
            data=str(path),
            rows=tuple(arguments.rows),
            map=arguments.map,
            max_length=arguments.max_length,
            chat_template=arguments.chat_template,
            train_on=arguments.train_on,
            compare=True,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "The command"
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{where}: {safe_line(said, limit=120)}.",
            "Check the numbers that you gave.",
            code="preview_request",
        ) from None
    answer = ask(request)
    print_answer(answer, as_json=arguments.json, whitespace=arguments.whitespace)
    bad = any(item.level == "error" for shown in answer.previews for item in shown.problems)
    return ExitCode.REFUSED if bad else ExitCode.DONE
