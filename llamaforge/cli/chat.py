"""`llamaforge chat RUN [PROMPT…]`: base and tuned model answer the same, one below the other."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from llamaforge.cli.options import add_json, add_run
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.collecting.chat_log import ChatLog, KeptTurn
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError, UsageError
from llamaforge.runs.chatting import ARMS, ChatProcess
from llamaforge.runs.directory import open_run
from llamaforge.safe_text import safe_line, safe_text

_TITLES: Final = {"base": "before", "tuned": "after"}
_ARM_OF: Final = {title: arm for arm, title in _TITLES.items()}
_MARKS: Final = {f"/{title}": arm for arm, title in _TITLES.items()}
_SHOWN_CHARACTERS: Final = 20_000

_Turns = dict[str, list[dict[str, str]]]


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "chat",
        help="talk to a run's model as it was and as it is now",
        description="Ask the model before and after training the same. Without a prompt, questions "
        "are read from the keyboard or from standard input, one a line. Nothing is kept unless "
        "you name a file with --keep.",
    )
    add_run(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to ask, in this order")
    parser.add_argument(
        "--ollama", metavar="NAME", help="let Ollama answer, which has the result under this name"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FILE.jsonl",
        help="add the conversation to this file, as a row to train on; a line /before or /after "
        "says which answer was better, and adds both to FILE.pairs.jsonl",
    )
    parser.add_argument(
        "--keep-answers",
        choices=list(_ARM_OF),
        default=_TITLES["tuned"],
        help="whose answers the conversation is kept with: those of the model after training "
        "(default), or before",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask, and print both answers.

    Raises:
        NotFoundError: there is no such run, or it has made nothing yet.
        LlamaForgeError: the models cannot be loaded, or one could not answer; or the file to keep
            the conversation in cannot be written.
    """
    directory = open_run(arguments.run_name)
    if arguments.json and not arguments.prompts and sys.stdin.isatty():
        raise UsageError("Nothing was asked.", "Give a PROMPT after the run.", code="no_prompt")
    with ExitStack() as stack:
        keeper = None
        if arguments.keep is not None:
            arm = _ARM_OF[arguments.keep_answers]
            log = ChatLog(arguments.keep.expanduser(), directory.id, arm)
            keeper = _Keeper(stack.enter_context(log), arm)
            stack.callback(keeper.sum_up)
        narrate("Loading the models …")
        process = stack.enter_context(ChatProcess(directory, arguments.ollama or ""))
        said = process.lines()
        ready = _next(said, "ready")
        names = ready["names"]
        narrate(f"before: {safe_line(names['base'])}   after: {safe_line(names['tuned'])}")
        if keeper is not None:
            keeper.announce()
        _talk(arguments, process, said, keeper)
    return ExitCode.DONE


def _talk(
    arguments: argparse.Namespace,
    process: ChatProcess,
    said: Iterator[dict[str, Any]],
    keeper: "_Keeper | None",
) -> None:
    turns: _Turns = {arm: [] for arm in ARMS}
    for prompt in _prompts(arguments):
        if keeper is not None and prompt in _MARKS:
            keeper.mark(_MARKS[prompt])
            continue
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
        if keeper is not None:
            keeper.add(prompt, answers)


class _Keeper:
    """Keeps what is said, and tells so."""

    def __init__(self, log: ChatLog, arm: str) -> None:
        self._log, self._arm = log, arm
        self._turns: dict[str, list[KeptTurn]] = {arm: [] for arm in ARMS}

    def announce(self) -> None:
        """Say that this conversation is kept, and where."""
        narrate(
            f"Kept in {safe_line(str(self._log.path))}: your questions, and the answers "
            f"{_TITLES[self._arm]} training. /before or /after says which answer was better."
        )

    def add(self, prompt: str, answers: dict[str, dict[str, Any]]) -> None:
        """Take one more question with its answers."""
        for arm in ARMS:
            answer = answers.get(arm, {"text": "", "cut": True})
            turn = KeptTurn(prompt, str(answer["text"]).strip(), not answer["cut"])
            self._turns[arm].append(turn)
        self._log.next_question()
        if not self._log.keep(self._turns[self._arm]):
            narrate("The answer was empty or cut off: nothing to keep of it.")

    def mark(self, better: str) -> None:
        """Keep both answers to the last question as a pair."""
        worse = next(arm for arm in ARMS if arm != better)
        if not self._turns[better]:
            narrate("Ask something first.")
            return
        before = self._turns[better][:-1]
        if before != self._turns[worse][:-1]:
            narrate(
                "No pair: the two have said different things before. Only the first answers of a "
                "conversation can be held against each other."
            )
            return
        try:
            self._log.prefer(before, self._turns[better][-1], self._turns[worse][-1])
        except RefusedError as error:
            narrate(f"No pair: {error.message}")
        else:
            narrate(f"Kept as a pair in {safe_line(str(self._log.pairs_path))}.")

    def sum_up(self) -> None:
        """Say what was kept, and what can be done with it."""
        if not self._log.conversations:
            narrate("Nothing was kept.")
            return
        path = safe_line(str(self._log.path))
        pairs = f", and pairs of answers: {self._log.pairs:,}" if self._log.pairs else ""
        narrate(f"The conversation is in {path}{pairs}.")
        command = shlex.join(["llamaforge", "data", "review", str(path)])
        narrate(f"Look through it before you train on it: {command}")


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
