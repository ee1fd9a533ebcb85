"""`llamaforge chat RUN [PROMPT…]`: base and tuned model answer the same, one below the other."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final

from llamaforge.cli.options import add_json, add_run
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.errors import ExitCode, LlamaForgeError, UsageError
from llamaforge.runs.chatting import ARMS, ChatProcess
from llamaforge.runs.directory import open_run
from llamaforge.safe_text import safe_line, safe_text

_TITLES: Final = {"base": "before", "tuned": "after"}
_SHOWN_CHARACTERS: Final = 20_000

_Turns = dict[str, list[dict[str, str]]]


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "chat",
        help="talk to a run's model as it was and as it is now",
        description="Ask the model before and after training the same. Without a prompt, questions "
        "are read from the keyboard or from standard input, one a line.",
    )
    add_run(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to ask, in this order")
    parser.add_argument(
        "--ollama", metavar="NAME", help="let Ollama answer, which has the result under this name"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask, and print both answers.

    Raises:
        NotFoundError: there is no such run, or it has made nothing yet.
        LlamaForgeError: the models cannot be loaded, or one could not answer.
    """
    directory = open_run(arguments.run_name)
    if arguments.json and not arguments.prompts and sys.stdin.isatty():
        raise UsageError("Nothing was asked.", "Give a PROMPT after the run.", code="no_prompt")
    narrate("Loading the models …")
    turns: _Turns = {arm: [] for arm in ARMS}
    with ChatProcess(directory, arguments.ollama or "") as process:
        said = process.lines()
        ready = _next(said, "ready")
        names = ready["names"]
        narrate(f"before: {safe_line(names['base'])}   after: {safe_line(names['tuned'])}")
        for prompt in _prompts(arguments):
            for arm in ARMS:
                turns[arm].append({"role": "user", "content": prompt})
            process.ask(turns)
            answers = _answers(said)
            for arm, answer in answers.items():
                turns[arm].append({"role": "assistant", "content": answer["text"]})
            if arguments.json:
                print_json({"prompt": prompt} | answers)
            else:
                _print(answers)
    return ExitCode.DONE


def _prompts(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.prompts:
        yield from arguments.prompts
        return
    is_person = sys.stdin.isatty()
    if is_person:
        narrate("Type a question and press Enter; an empty line ends the conversation.")
    while True:
        if is_person:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip() and (is_person or not line):
            return
        if line.strip():
            yield line.strip()


def _answers(said: Iterator[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    answers = {}
    for body in said:
        match body["type"]:
            case "answer":
                answers[body["arm"]] = {
                    key: body[key] for key in ("text", "tokens", "seconds", "cut")
                }
            case "error":
                raise _error(body)
            case "turn":
                return answers
    raise LlamaForgeError("The models are gone.", "Ask again.", code="chat_died")


def _next(said: Iterator[dict[str, Any]], kind: str) -> dict[str, Any]:
    for body in said:
        if body["type"] == "error":
            raise _error(body)
        if body["type"] == kind:
            return body
    raise LlamaForgeError("The models could not be loaded.", "Try again.", code="chat_died")


def _error(body: dict[str, Any]) -> LlamaForgeError:
    return LlamaForgeError(str(body["message"]), str(body["hint"]), code=str(body["code"]))


def _print(answers: dict[str, dict[str, Any]]) -> None:
    for arm, answer in answers.items():
        text = safe_text(answer["text"].strip(), limit=_SHOWN_CHARACTERS) or "(nothing)"
        print_text(f"{_TITLES[arm]}: {text}")
    print_text("")
