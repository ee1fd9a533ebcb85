"""What can be done with a finished run: talk to it, publish it, export it."""

import json
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from llamaforge import paths
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.chatting import Turns
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.program import Outcome, Verb
from llamaforge.tui.screens import chat
from llamaforge.tui.screens.chat import ChatScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.tasks import ExportScreen, PublishScreen
from tests.tui.run_builder import RunBuilder
from tests.tui.waiting import screen_text, text_of, until, until_shown

SIZES = [(80, 24), (120, 40)]
HOSTILE = '\x1b[31m[/foo] {"b": [true]} \u202e[bold]x'


class Models:
    """In place of the process with the models: says what a test lets it say."""

    def __init__(self, run: object, published: str = "") -> None:
        self.published = published
        self.said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.asked: list[Mapping[str, Turns]] = []
        self.stopped = self.closed = False
        made.append(self)

    def start(self) -> None:
        pass

    def lines(self) -> Iterator[dict[str, Any]]:
        while (body := self.said.get(timeout=60)) is not None:
            if body["type"] == "die":
                raise LlamaForgeError("The process with the models was killed.", "Free memory.")
            yield body

    def ask(self, conversations: Mapping[str, Turns]) -> None:
        self.asked.append({arm: list(turns) for arm, turns in conversations.items()})

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True
        self.said.put(None)

    def say(self, kind: str, **body: Any) -> None:
        self.said.put({"type": kind} | body)

    def ready(self) -> None:
        self.say("ready", backend="llama.cpp", names={"base": "qwen2.5:3b", "tuned": "tickets"})

    def answer(self, base: str, tuned: str) -> None:
        for arm, text in (("base", base), ("tuned", tuned)):
            self.say("part", arm=arm, text=text[:3])
            self.say("answer", arm=arm, text=text, tokens=5, seconds=1.25, cut=False)
        self.say("turn")


made: list[Models] = []


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    monkeypatch.setattr(chat, "ChatProcess", Models)


async def result_is_shown(pilot: Pilot[Any]) -> None:
    await until_shown(pilot, "What to do next")


async def chat_is_shown(pilot: Pilot[Any]) -> Models:
    await result_is_shown(pilot)
    await pilot.press("t")
    await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen) and bool(made))
    return made[-1]


@pytest.mark.parametrize("size", SIZES)
async def test_a_question_is_answered_in_two_columns(
    finished: RunBuilder, size: tuple[int, int]
) -> None:
    async with LlamaForgeApp(None, finished.run.id).run_test(size=size) as pilot:
        process = await chat_is_shown(pilot)
        await until_shown(pilot, "Loading the models")
        await pilot.press(*"Who")  # typed before anybody can answer
        await pilot.press("enter")
        assert process.asked == []
        process.ready()
        await until_shown(pilot, "llama.cpp answers")
        await pilot.press("enter")
        question = [{"role": "user", "content": "Who"}]
        await until(pilot, lambda: process.asked == [{"base": question, "tuned": question}])
        process.answer("I do not know.", "cards")
        await until_shown(pilot, "5 tokens, 1.2 s")
        row = next(line for line in screen_text(pilot).splitlines() if "I do not know." in line)
        assert row.index("cards") > size[0] // 2

        await pilot.press(*"Why", "enter")
        await until(pilot, lambda: len(process.asked) == 2)
        assert [turn["content"] for turn in process.asked[1]["base"]] == [
            "Who",
            "I do not know.",
            "Why",
        ]
        assert [turn["content"] for turn in process.asked[1]["tuned"]][1] == "cards"
        await pilot.press("ctrl+x")
        assert process.stopped
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
        assert process.closed


async def test_what_is_said_is_kept_only_once_that_is_asked_for(finished: RunBuilder) -> None:
    chats = paths.home() / "chats"
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(100, 30)) as pilot:
        process = await chat_is_shown(pilot)
        process.ready()
        await until_shown(pilot, "llama.cpp answers")
        await pilot.press("a", "enter")
        await until(pilot, lambda: len(process.asked) == 1)
        process.answer("I do not know.", "cards")
        await until_shown(pilot, "5 tokens")
        await pilot.press("f8")
        assert "● kept" not in screen_text(pilot)
        assert not chats.exists()

        await pilot.press("f4")
        await until_shown(pilot, "● kept")
        path = chats / f"{finished.run.id}.jsonl"
        assert [row["messages"][1]["content"] for row in rows_of(path)] == ["cards"]
        assert path.stat().st_mode & 0o077 == chats.stat().st_mode & 0o077 == 0
        await pilot.press("f8")
        await until_shown(pilot, "better, kept as a pair")
        (pair,) = rows_of(path.with_name(f"{finished.run.id}.pairs.jsonl"))
        assert pair["chosen"][0]["content"] == "cards"
        await pilot.press("f8")
        await until(pilot, lambda: "kept as a pair" not in screen_text(pilot))
        await pilot.press("f8", "f4", "f4", "f8")
        await until_shown(pilot, "That pair was kept before")
        assert "better, kept as a pair" in screen_text(pilot)
        assert len(rows_of(path.with_name(f"{finished.run.id}.pairs.jsonl"))) == 1

        await pilot.press("b", "enter")
        await until(pilot, lambda: len(process.asked) == 2)
        process.answer("No.", "Yes.")
        await until(pilot, lambda: len(rows_of(path)[-1]["messages"]) == 4)
        await pilot.press("f7")
        await until_shown(pilot, "No pair: they have said different things before.")
        await pilot.press("f4")
        await until_shown(pilot, "Nothing more is kept.")
        await pilot.press("c", "enter")
        await until(pilot, lambda: len(process.asked) == 3)
        process.answer("1", "2")
        await until(pilot, lambda: screen_text(pilot).count("5 tokens") == 6)
        assert len(rows_of(path)[-1]["messages"]) == 4


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_hostile_answers_are_shown_as_they_are(finished: RunBuilder) -> None:
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(120, 40)) as pilot:
        process = await chat_is_shown(pilot)
        process.say("ready", backend="ollama", names={"base": HOSTILE, "tuned": HOSTILE})
        await until_shown(pilot, "Ollama answers")
        pilot.app.screen.query_one(Input).value = HOSTILE
        await pilot.press("enter")
        await until(pilot, lambda: len(process.asked) == 1)
        process.answer(HOSTILE, HOSTILE)
        await until_shown(pilot, "5 tokens")
        shown = screen_text(pilot)
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\\x1b[31m[/foo]" in text_of(pilot, "#talk")
        for size in ((20, 5), (1, 1), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
        await until_shown(pilot, "5 tokens")


async def test_what_cannot_be_answered_is_told_and_the_conversation_goes_on(
    finished: RunBuilder,
) -> None:
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(80, 24)) as pilot:
        process = await chat_is_shown(pilot)
        process.ready()
        await until_shown(pilot, "llama.cpp answers")
        await pilot.press("x", "enter")
        await until(pilot, lambda: len(process.asked) == 1)
        process.say("error", message="It has grown too long.", hint="Begin anew.", fatal=False)
        process.say("turn")
        await until_shown(pilot, "✗ It has grown too long. Begin anew.")
        await pilot.press("ctrl+n")
        await pilot.press("y", "enter")
        await until(pilot, lambda: len(process.asked) == 2)
        assert len(process.asked[1]["base"]) == 1
        process.say("die")
        await until_shown(pilot, "The process with the models was killed. Free memory.")


class Program:
    """In place of the verb's process: ends as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[str]] = []
        self.outcomes: list[Outcome] = []
        self.hold = False
        program = self

        def run(verb: Verb, on_line: Callable[[str], None]) -> Outcome:
            program.calls.append(verb._words[3:])
            on_line("Sending it …")
            while program.hold:
                time.sleep(0.01)
            return program.outcomes.pop(0)

        monkeypatch.setattr(Verb, "run", run)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(monkeypatch)


async def publish_is_shown(pilot: Pilot[Any]) -> None:
    await result_is_shown(pilot)
    await pilot.press("u")
    await until(pilot, lambda: isinstance(pilot.app.screen, PublishScreen))


@pytest.mark.parametrize("size", SIZES)
async def test_publishing_asks_for_a_name_and_says_what_is_there_then(
    finished: RunBuilder, program: Program, size: tuple[int, int]
) -> None:
    program.outcomes = [
        Outcome(0, {"published": True, "name": "desk:v1", "answer": "Hi \x1b[2J[b]"})
    ]
    program.hold = True
    async with LlamaForgeApp(None, finished.run.id).run_test(size=size) as pilot:
        await publish_is_shown(pilot)
        await pilot.press(*"bad name", "enter")
        await until_shown(pilot, "✗")
        assert program.calls == []
        pilot.app.screen.query_one(Input).value = "desk:v1"
        await pilot.press("enter")
        await until_shown(pilot, "Sending it …")
        program.hold = False
        await until_shown(pilot, "✓ desk:v1 is in Ollama.")
        assert "\x1b" not in screen_text(pilot)
        assert program.calls == [["publish", "--json", "tickets", "--name=desk:v1", "--yes"]]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))


async def test_a_taken_name_is_replaced_only_where_it_is_typed_again(
    finished: RunBuilder, program: Program
) -> None:
    taken = Outcome(3, {"error": {"code": "name_taken", "message": "Taken.", "hint": "x"}})
    program.outcomes = [taken, taken, Outcome(0, {"published": True, "name": "b", "answer": ""})]
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(80, 24)) as pilot:
        await publish_is_shown(pilot)
        for name in ("a", "b", "b"):
            count = len(program.calls)
            await until(pilot, lambda: getattr(pilot.app.screen, "verb", 1) is None)
            pilot.app.screen.query_one(Input).value = name
            await pilot.press("enter")
            await until(pilot, lambda count=count: len(program.calls) > count)  # type: ignore[misc]
        await until_shown(pilot, "b is in Ollama")
        assert ["--overwrite" in call for call in program.calls] == [False, False, True]


async def test_the_real_verb_says_why_nothing_can_be_published(finished: RunBuilder) -> None:
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(80, 24)) as pilot:
        await publish_is_shown(pilot)
        await pilot.press("a", "enter")
        await until_shown(pilot, "✗ The run tickets has no adapter.")


async def test_exporting_asks_for_a_form_and_says_where_it_is(
    finished: RunBuilder, program: Program
) -> None:
    program.outcomes = [Outcome(0, {"path": "/runs/[b]tickets/merged.gguf"})]
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(80, 24)) as pilot:
        await result_is_shown(pilot)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, ExportScreen))
        await pilot.press("down", "down", "enter")
        await until_shown(pilot, "✓ Written: /runs/[b]tickets/merged.gguf")
        assert program.calls == [["export", "--json", "tickets", "--as", "gguf", "--quant", "Q8_0"]]


async def test_a_run_that_is_not_finished_offers_none_of_it(running: RunBuilder) -> None:
    async with LlamaForgeApp(None, running.run.id).run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "120 of 200 steps")
        await pilot.press("t", "u", "e")
        assert isinstance(pilot.app.screen, MonitorScreen)


async def test_a_result_that_was_published_by_hand_is_talked_to_in_ollama(
    finished: RunBuilder,
) -> None:
    finished.run.journal_file.write_text(
        '{"id": 1, "change": "publish", "phase": "intent", '
        '"model": "registry.ollama.ai/library/desk:v1"}\n'
        '{"id": 1, "change": "publish", "phase": "done"}\n'
        '{"id": 2, "change": "publish", "phase": "intent", "model": "x"}\n{"half'
    )
    async with LlamaForgeApp(None, finished.run.id).run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "ollama run desk:v1")
        process = await chat_is_shown(pilot)
        assert process.published == "desk:v1"
