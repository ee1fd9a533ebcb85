"""The analysis: one pass, sections that say what to do, masked examples, and what stops a run."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.analysis import Analysis, Severity, analyse
from llamaforge.data.lengths import by_text
from llamaforge.data.records import Message, Record, record_id
from llamaforge.data.split import split
from tests.unit.data.row_files import record

TOKEN = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
MEASURE = by_text(lambda text: len(text.split()), turn_tokens=0)
GOLDEN = Path(__file__).parent / "golden" / "row_analysis.json"


def text(seed: int, words: int = 40) -> str:
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefgh", k=5)) for _ in range(words)) + "."


def mixed() -> list[Record]:
    rows = [record(f"What is {n}?", text(n), row=n) for n in range(1, 31)]
    rows += [
        record("What is 1?", text(1), row=31),
        record("What is 2?", f"{text(2)} Indeed.", row=32),
        record("What is 3?", text(99), row=33),
        record("Which token?", f"Use {TOKEN} for that.", row=34),
        record("Whom do I ask?", "Write to anna.keller@posteo.de or call +49 170 1234567.", row=35),
        record("How is it?", "The cafÃ© is closed.", row=36),
        record("And?", "", row=37),
        record("Can you?", "I'm sorry, but I can't assist with that.", row=38),
        record("How far?", text(100, 300), row=39),
    ]
    return rows


def section(found: Analysis, code: str) -> dict[str, object]:
    return next(item.to_json() for item in found.sections if item.code == code)


def test_a_mixed_data_set_gives_the_known_analysis() -> None:
    found = analyse(mixed(), measure=MEASURE, max_length=128).to_json()
    assert json.loads(json.dumps(found)) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_a_secret_stops_a_run_unless_a_person_allows_it() -> None:
    found = analyse(mixed())
    assert found.severity is Severity.STOP
    assert section(found, "secrets")["severity"] == "stop"
    allowed = analyse(mixed(), allow_secrets=True)
    assert allowed.severity is Severity.WARN
    assert {item["code"] for item in allowed.problems()} >= {"secrets", "personal", "empty_answer"}


def test_nothing_private_is_in_the_result() -> None:
    found = json.dumps(analyse(mixed(), measure=MEASURE).to_json(), ensure_ascii=False)
    assert TOKEN not in found
    assert TOKEN[:8] not in found
    assert "keller" not in found
    assert "1234567" not in found


def test_good_rows_raise_no_problem() -> None:
    rows = [record(f"What is {n}?", text(n), row=n) for n in range(30)]
    found = analyse(rows, measure=MEASURE)
    assert found.problems() == []
    assert found.severity is Severity.INFO
    assert [item.code for item in found.sections] == [
        "rows", "duplicates", "conflicts", "secrets", "personal", "languages", "lengths",
    ]  # fmt: skip


def test_no_rows_are_no_error() -> None:
    found = analyse([], measure=MEASURE)
    assert (found.rows, found.complete, found.clusters, found.problems()) == (0, True, (), [])
    assert analyse([]).lengths is None


def test_rows_are_taken_one_by_one_and_progress_is_told() -> None:
    alive = most = 0

    class Counted(str):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Iterator[Record]:
        nonlocal alive, most
        for number in range(1_200):
            turns = (Message("user", f"What is {number}?"), Message("assistant", text(number, 8)))
            alive += 1
            most = max(most, alive)
            yield Record(record_id(turns), Counted("a"), number, turns)

    told: list[int] = []
    found = analyse(rows(), on_progress=told.append)
    assert found.rows == 1_200
    assert told == [500, 1_000, 1_200]
    assert most < 10


def test_a_stopped_analysis_is_about_the_rows_so_far() -> None:
    told: list[int] = []
    found = analyse(
        (record(f"What is {n}?", "That.", row=n) for n in range(5_000)),
        on_progress=told.append,
        stopped=lambda: bool(told),
    )
    assert (found.rows, found.complete) == (500, False)
    assert len(found.clusters) == 500
    assert found.flags.rows == found.duplicates.rows == 500


def test_clusters_are_what_the_split_takes() -> None:
    rows = [record(f"What is {n}?", text(n // 4, 60), row=n) for n in range(40)]
    found = analyse(rows)
    splits, report = split(rows, 0.2, 0, clusters=found.clusters)
    assert report.leaks == []
    assert len(splits["validation"]) == 8
    assert len({row.row // 4 for row in splits["validation"]}) == 2


@pytest.mark.parametrize(
    ("context", "advice"), [(128, "The model takes 128"), (None, "would hold")]
)
def test_what_does_not_fit_is_said_with_what_to_do(context: int | None, advice: str) -> None:
    rows = [record("q", text(1, 200), row=1), record("r", "Yes.", row=2)]
    found = analyse(rows, measure=MEASURE, max_length=128, context=context)
    lengths = section(found, "lengths")
    assert lengths["severity"] == "warn"
    assert advice in str(lengths["message"])
    assert lengths["examples"] == [{"source": "rows.jsonl", "line": 1, "text": "201 tokens"}]


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=60)),
        max_size=5,
    ),
    st.text(max_size=40),
)
@settings(deadline=None, max_examples=60)
def test_any_row_is_analysed_and_its_result_is_json(
    turns: list[tuple[str, str]], better: str
) -> None:
    messages = tuple(Message(role, content) for role, content in turns)
    chosen = (Message("assistant", better),) if better else ()
    item = Record(record_id(messages), "a.jsonl", 1, messages, chosen=chosen)
    found = analyse([item, item], measure=MEASURE)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.duplicates.exact == 1
    shown = [example.text for part in found.sections for example in part.examples]
    assert all("\x1b" not in words and "\n" not in words for words in shown)
