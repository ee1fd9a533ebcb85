"""`python -m llamaforge.worker.chat RUN_DIR [--ollama NAME]`: base and tuned model, side by side.

The other side is `runs.chatting`. Without a name both are run by llama.cpp here, over the very file
that the server has; with one, the server itself answers.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from llamaforge.data.records import Message, RowError
from llamaforge.errors import ExitCode, LlamaForgeError, NotFoundError, RefusedError
from llamaforge.gguf.llama_files import llama_files
from llamaforge.gguf.model_file import read_model
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.chatting import ARMS
from llamaforge.runs.directory import RunDirectory
from llamaforge.safe_text import safe_line
from llamaforge.worker.job import renderer_of

MOST_NEW_TOKENS: Final = 512
CONTEXT_TOKENS: Final = 4096
_REPLACEMENT: Final = "\ufffd"

Turns = Sequence[Mapping[str, str]]


class Talker(Protocol):
    """What answers as either arm."""

    @property
    def backend(self) -> str:
        """`llama.cpp` or `ollama`."""

    @property
    def names(self) -> Mapping[str, str]:
        """What each arm is called."""

    def answer(
        self, arm: str, turns: Turns, on_text: Callable[[str], None], stopped: Callable[[], bool]
    ) -> tuple[int, bool]:
        """Give the answer in parts; return its tokens, and whether it was cut."""


class LlamaTalker:
    """llama.cpp over the run's own files."""

    backend = "llama.cpp"

    def __init__(self, server: Any, renderer: Any, tokenizer: GgufTokenizer, spec: RunSpec) -> None:
        self._server, self._renderer, self._tokenizer = server, renderer, tokenizer
        self._context = context_of(spec)
        self.names = {"base": spec.model.name, "tuned": spec.run}

    def answer(
        self, arm: str, turns: Turns, on_text: Callable[[str], None], stopped: Callable[[], bool]
    ) -> tuple[int, bool]:
        """Give the most probable answer, token by token.

        Raises:
            RefusedError: the template refuses the conversation, or it has grown too long.
        """
        messages = [Message(turn["role"], turn["content"]) for turn in turns]
        try:
            prompt = self._renderer.encode_prompt(messages)
        except RowError as error:
            raise RefusedError(
                f"The chat template does not take this: {safe_line(str(error), limit=160)}.",
                "Begin a new conversation.",
                code="chat_template",
            ) from error
        room = self._context - len(prompt)
        if room < 1:
            raise RefusedError(
                "The conversation has grown too long for the room that was made for it.",
                "Begin a new one.",
                code="chat_length",
            )
        ids: list[int] = []
        told = ""

        def on_token(token: int) -> None:
            nonlocal told
            ids.append(token)
            text = self._tokenizer.decode(ids)
            # A character of several tokens is told once it is whole.
            if not text.endswith(_REPLACEMENT) and len(text) > len(told):
                on_text(text[len(told) :])
                told = text

        self._server.use_adapter(arm == "tuned")
        most = min(MOST_NEW_TOKENS, room)
        self._server.generate(
            prompt,
            max_new_tokens=most,
            end_ids=self._tokenizer.end_ids,
            stopped=stopped,
            on_token=on_token,
        )
        rest = self._tokenizer.decode(ids)[len(told) :]
        if rest:
            on_text(rest)
        return len(ids), len(ids) >= most or stopped()


def context_of(spec: RunSpec) -> int:
    """Return for how many tokens of a conversation there is room."""
    return min(spec.model.context_length or CONTEXT_TOKENS, CONTEXT_TOKENS)


@contextmanager
def llama_talker(run: RunDirectory, spec: RunSpec) -> Iterator[Talker]:
    """Load the run's model with what was trained.

    Raises:
        NotFoundError: the run has made nothing yet.
        LlamaForgeError: llama.cpp does not take it.
    """
    from llamaforge.evaluation.llama import Server
    from llamaforge.evaluation.pair import ServedPair

    kind = "adapter" if spec.training.makes_adapter else "merged"
    made = next((item["path"] for item in run.artifact_list() if item["kind"] == kind), None)
    if made is None:
        raise NotFoundError(
            f"The run {run.id} has made nothing yet that could be talked to.",
            f"Let it finish: llamaforge runs resume {run.id}",
            code="no_adapter",
        )
    header = read_model(spec.model.blob, spec.model.files)
    tokenizer = GgufTokenizer(header)
    renderer = renderer_of(spec, tokenizer)
    context = context_of(spec)
    with llama_files(header, run.data) as files:
        server = (
            Server(files, context=context, adapter=Path(made))
            if kind == "adapter"
            else ServedPair(files, Path(made), context=context)
        )
        with server as loaded:
            yield LlamaTalker(loaded, renderer, tokenizer, spec)


def main(arguments: list[str]) -> int:
    """Answer until the input ends, and return an exit code."""
    if len(arguments) not in {1, 3} or (len(arguments) == 3 and arguments[1] != "--ollama"):
        print("usage: python -m llamaforge.worker.chat RUN_DIR [--ollama NAME]", file=sys.stderr)  # noqa: T201
        return ExitCode.USAGE
    os.umask(0o077)
    run = RunDirectory(Path(arguments[0]).absolute())
    inbox = Inbox()
    inbox.start()
    try:
        spec = RunSpec.load(run.spec_file)
        talker: AbstractContextManager[Talker]
        if len(arguments) == 3:
            from llamaforge.worker.chat_ollama import ollama_talker

            talker = ollama_talker(spec.model.name, arguments[2])
        else:
            talker = llama_talker(run, spec)
        with talker as talking:
            _say("ready", backend=talking.backend, names=dict(talking.names))
            for conversations in inbox:
                _turn(talking, conversations, inbox)
    except LlamaForgeError as error:
        _tell(error, fatal=True)
        return int(error.exit_code)
    return int(ExitCode.DONE)


class Inbox:
    """What is asked, read by a thread so that a wish to stop is seen during an answer."""

    def __init__(self) -> None:
        self._asked: queue.Queue[dict[str, Turns] | None] = queue.Queue()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to read standard input."""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def stopped(self) -> bool:
        """Return whether the answers that are being given shall end."""
        return self._stopped.is_set()

    def __iter__(self) -> Iterator[dict[str, Turns]]:
        """Yield each question; ends where the input does."""
        while (asked := self._asked.get()) is not None:
            self._stopped.clear()
            yield asked

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            body = json.loads(line)
            if body["type"] == "stop":
                self._stopped.set()
            else:
                self._asked.put(body["messages"])
        self._stopped.set()
        self._asked.put(None)


def _turn(talker: Talker, conversations: Mapping[str, Turns], inbox: Inbox) -> None:
    try:
        for arm in ARMS:
            if inbox.stopped() or arm not in conversations:
                continue
            began = time.monotonic()
            parts: list[str] = []

            def on_text(text: str, arm: str = arm, parts: list[str] = parts) -> None:
                parts.append(text)
                _say("part", arm=arm, text=text)

            tokens, cut = talker.answer(arm, conversations[arm], on_text, inbox.stopped)
            seconds = round(time.monotonic() - began, 3)
            text = "".join(parts)
            _say("answer", arm=arm, text=text, tokens=tokens, cut=cut, seconds=seconds)
    except LlamaForgeError as error:
        _tell(error, fatal=False)
    _say("turn")


def _tell(error: LlamaForgeError, *, fatal: bool) -> None:
    _say("error", code=error.code, message=error.message, hint=error.hint, fatal=fatal)


def _say(kind: str, **body: Any) -> None:
    try:
        sys.stdout.write(json.dumps({"type": kind} | body) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody listens any more
        os._exit(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
