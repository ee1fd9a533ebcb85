"""`data generate`: each prompt is answered once, whatever server and person do meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamaforge.collecting.answers import Asking, BusyError, UnansweredError
from llamaforge.collecting.generate import GenerateRequest, generate
from llamaforge.collecting.patience import Retries
from llamaforge.collecting.session import Progress, Watch, journal_path
from llamaforge.collecting.teachers import TeacherChoice, open_teacher
from llamaforge.data.formats import read_records
from llamaforge.data.records import Message, Record
from llamaforge.errors import (
    ExitCode,
    InvalidFileError,
    LlamaForgeError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from tests.contract.collecting.conftest import Command
from tests.contract.collecting.fake_models import Asked, FakeModels, Fault, Reply

Made = Callable[[], list[dict[str, Any]]]
QUICK = Retries(attempts=3, first_pause_seconds=0.01)
ASKED = (Message("user", "Why?"),)
KEY = "sk-Very.Secret_0123"


def words(prompts: Path, out: Path, *more: object) -> list[object]:
    return ["generate", prompts, "--model", "teacher", "--out", out, *more]


def run(server: FakeModels, prompts: Path, out: Path, **more: Any) -> Any:
    request = GenerateRequest(sources=(prompts,), out=out, **more)
    with open_teacher(TeacherChoice("teacher", answer_seconds=2.0)) as teacher:
        return generate(request, teacher, Watch(), retries=QUICK)


def assert_is_asked_once(server: FakeModels) -> None:
    assert set(Counter(server.prompts()).values()) == {1}


def test_answers_become_rows_in_the_order_of_the_prompts(
    server: FakeModels, data: Command, prompts: Path, out: Path, made: Made
) -> None:
    server.before = lambda _: time.sleep(0.03)
    more = ["--concurrency", 4, "--system", "Be brief.", "--temperature", 0.5, "--seed", 7]
    assert data(*words(prompts, out, *more)) is ExitCode.DONE
    rows = made()
    assert [row["messages"][1]["content"] for row in rows] == [f"Question {n}?" for n in range(8)]
    assert rows[3]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question 3?"},
        {"role": "assistant", "content": "Answer to Question 3?"},
    ]
    assert rows[3]["meta"] == {"model": "teacher:latest", "source": str(prompts), "row": 4}
    options = server.seen[0].body["options"]
    assert options == {"temperature": 0.5, "seed": 7, "num_predict": 1024}
    assert 1 < server.most_in_work <= 4
    assert all(isinstance(item, Record) for item in read_records(out))


def test_any_endpoint_that_speaks_openai_is_asked_with_the_key(
    server: FakeModels, data: Command, prompts: Path, out: Path, made: Made,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MY_KEY", KEY)
    more = ["--endpoint", server.endpoint, "--api-key-env", "MY_KEY", "--max-tokens", 50]
    server.faults.extend(["400"])
    assert data(*words(prompts, out, *more)) is ExitCode.DONE
    assert len(made()) == 7
    asked = server.seen[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "teacher",
        "messages": [{"role": "user", "content": "Question 0?"}],
        "stream": False,
        "max_tokens": 50,
    }
    said = capfd.readouterr()
    assert "no answer" in said.err
    assert KEY not in said.out + said.err
    assert "\x1b" not in said.err
    for file in out.parent.iterdir():
        assert KEY not in file.read_text()


@pytest.mark.parametrize(
    "fault", ["429", "500", "503", "garbage", "shape", "cut", "no-end", "error-line", "drop"]
)
def test_what_may_pass_is_asked_again(
    server: FakeModels, prompts: Path, out: Path, made: Made, fault: Fault
) -> None:
    server.faults.extend([None, fault, fault])
    done = run(server, prompts, out)
    assert (done.rows, done.failed) == (8, 0)
    assert [row["messages"][-1]["content"] for row in made()][1] == "Answer to Question 1?"
    assert Counter(server.prompts())["Question 1?"] == 3


@pytest.mark.parametrize("fault", ["429", "500", "garbage", "shape", "cut", "drop"])
def test_an_endpoint_is_asked_again_too(server: FakeModels, fault: Fault) -> None:
    server.faults.extend([fault])
    with open_teacher(TeacherChoice("m", endpoint=server.endpoint)) as teacher:
        with pytest.raises(BusyError):
            teacher.ask(ASKED, Asking())
        assert teacher.ask(ASKED, Asking()).text == "Answer to Why?"


def test_a_server_that_hangs_is_left_after_its_time(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    server.faults.extend(["hang"])
    request = GenerateRequest(sources=(prompts,), out=out)
    with open_teacher(TeacherChoice("teacher", answer_seconds=0.3)) as teacher:
        done = generate(request, teacher, Watch(), retries=QUICK)
    assert done.rows == 8
    server.faults.extend(["hang"])
    choice = TeacherChoice("teacher", endpoint=server.endpoint, answer_seconds=0.3)
    with open_teacher(choice) as teacher, pytest.raises(BusyError, match="in time"):
        teacher.ask(ASKED, Asking())


def test_the_server_s_own_pause_is_kept_by_everyone(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    server.faults.extend(["429-later"])
    times: list[float] = []
    server.before = lambda _: times.append(time.monotonic())
    choice = TeacherChoice("teacher", endpoint=server.endpoint)
    with open_teacher(choice) as teacher:
        generate(GenerateRequest(sources=(prompts,), out=out), teacher, Watch(), retries=QUICK)
    assert times[1] - times[0] >= 0.29


def test_requests_keep_to_the_rate(server: FakeModels, prompts: Path, out: Path) -> None:
    times: list[float] = []
    server.before = lambda _: times.append(time.monotonic())
    run(server, prompts, out, per_minute=1200.0, concurrency=8)
    assert max(times) - min(times) >= 7 * 0.05 * 0.9


def test_a_prompt_that_fails_is_named_and_asked_again_by_the_next_session(
    server: FakeModels, data: Command, prompts: Path, out: Path, made: Made,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    server.faults.extend([None, "400"])
    assert data(*words(prompts, out, "--json")) is ExitCode.DONE
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["type"] == "started"
    assert events[0]["total"] == 8
    assert {"progress", "failed"} <= {event["type"] for event in events}
    failed = next(event for event in events if event["type"] == "failed")
    assert (failed["source"], failed["line"]) == (str(prompts), 2)
    assert "\x1b" not in failed["reason"]
    last = events[-1]
    assert (last["type"], last["state"], last["rows"], last["failed"]) == (
        "finished", "finished", 7, 1,
    )  # fmt: skip
    before = len(server.seen)
    assert data(*words(prompts, out)) is ExitCode.DONE
    assert server.prompts()[before:] == ["Question 1?"]
    assert len(made()) == 8


def test_a_server_that_is_broken_ends_the_work_and_what_was_made_is_kept(
    server: FakeModels, prompts: Path, out: Path, made: Made
) -> None:
    prompts.write_text("".join(f"Question {n}?\n" for n in range(30)))
    server.faults.extend([None, None])
    server.always = "500"
    with pytest.raises(LlamaForgeError) as caught:
        run(server, prompts, out)
    assert caught.value.code == "server_failing"
    assert len(made()) == 2
    server.always = None
    before = len(server.seen)
    assert run(server, prompts, out).rows == 30
    assert not {"Question 0?", "Question 1?"} & set(server.prompts()[before:])


@pytest.mark.parametrize(
    ("fault", "code"), [("401", "no_access"), ("404", "no_model"), ("redirect", "redirected")]
)
def test_an_endpoint_that_will_never_answer_ends_the_work_at_once(
    server: FakeModels, data: Command, prompts: Path, out: Path, fault: Fault, code: str
) -> None:
    server.always = fault
    with pytest.raises(LlamaForgeError) as caught:
        data(*words(prompts, out, "--endpoint", server.endpoint))
    assert caught.value.code == code
    assert caught.value.message.isprintable()
    assert len(server.seen) == 1
    assert not out.exists()


def test_finished_work_is_never_asked_again(server: FakeModels, prompts: Path, out: Path) -> None:
    run(server, prompts, out)
    before = out.read_bytes()
    prompts.write_text(prompts.read_text() + "Question 8?\n")
    done = run(server, prompts, out)
    assert (done.rows, done.answers) == (9, 1)
    assert out.read_bytes().startswith(before)
    assert_is_asked_once(server)


def test_equal_prompts_are_asked_once(server: FakeModels, prompts: Path, out: Path) -> None:
    prompts.write_text("One?\nTwo?\nOne?\n")
    done = run(server, prompts, out)
    assert (done.prompts, done.repeated, done.rows) == (3, 1, 2)
    assert_is_asked_once(server)


def test_several_answers_have_seeds_of_their_own_and_equal_ones_count_once(
    server: FakeModels, prompts: Path, out: Path, made: Made
) -> None:
    prompts.write_text("One?\n")
    server.reply = lambda asked: Reply(f"No. {min(asked.body['options']['seed'], 6)}")
    done = run(server, prompts, out, answers=4, seed=4)
    assert [row["messages"][-1]["content"] for row in made()] == ["No. 4", "No. 5", "No. 6"]
    assert (done.rows, done.same) == (3, 1)
    assert [asked.body["options"]["seed"] for asked in server.seen] == [4, 5, 6, 7]


def test_an_answer_that_was_cut_off_is_left_out_until_more_tokens_are_allowed(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    prompts.write_text("One?\nTwo?\n")
    server.reply = lambda asked: Reply("Wor", "length") if "Two" in asked.prompt else Reply("Word.")
    assert run(server, prompts, out, max_tokens=10).cut == 1
    assert run(server, prompts, out, max_tokens=10).answers == 0
    server.reply = lambda asked: Reply("Words.")
    done = run(server, prompts, out, max_tokens=20)
    assert (done.rows, done.cut, done.answers) == (2, 0, 1)


def test_no_usable_answer_at_all_is_a_refusal(server: FakeModels, prompts: Path, out: Path) -> None:
    server.reply = lambda asked: Reply("Wor", "length")
    with pytest.raises(RefusedError, match="cut off") as caught:
        run(server, prompts, out)
    assert caught.value.code == "nothing_made"
    assert not out.exists()


def test_an_empty_answer_is_none(server: FakeModels) -> None:
    with open_teacher(TeacherChoice("teacher")) as teacher:
        server.reply = lambda asked: Reply("")
        assert teacher.ask(ASKED, Asking()).text == ""
        server.always = "400"
        with pytest.raises(UnansweredError):
            teacher.ask(ASKED, Asking())


def test_other_settings_are_refused_and_force_begins_anew(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    run(server, prompts, out)
    with pytest.raises(RefusedError) as caught:
        run(server, prompts, out, temperature=0.1, seed=3)
    assert caught.value.code == "other_settings"
    assert "seed, temperature" in caught.value.message
    assert run(server, prompts, out, temperature=0.1, seed=3, force=True).answers == 8


def test_a_slip_in_a_name_throws_nothing_away(server: FakeModels, prompts: Path, out: Path) -> None:
    run(server, prompts, out)
    before = journal_path(out).read_bytes()
    with pytest.raises(NotFoundError):
        run(server, prompts.with_name("promtps.txt"), out, force=True)
    assert journal_path(out).read_bytes() == before


def test_what_replaces_a_file_by_force_goes_on_without_it(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    out.write_text("mine\n")
    server.faults.extend([None, "401"])
    with pytest.raises(LlamaForgeError):
        run(server, prompts, out, force=True)
    out.write_text("mine\n")  # as if the process had died before it wrote
    assert run(server, prompts, out).answers == 7
    assert_is_asked_once_but(server, "Question 1?")


def assert_is_asked_once_but(server: FakeModels, prompt: str) -> None:
    asked = Counter(server.prompts())
    assert asked.pop(prompt) == 2
    assert set(asked.values()) == {1}


def test_a_file_that_is_not_ours_is_not_replaced(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    out.write_text("mine\n")
    with pytest.raises(InvalidFileError) as caught:
        run(server, prompts, out)
    assert caught.value.code == "exists"
    out.unlink()
    run(server, prompts, out)
    out.write_text("edited by hand\n")
    with pytest.raises(InvalidFileError) as caught:
        run(server, prompts, out)
    assert caught.value.code == "exists"
    assert out.read_text() == "edited by hand\n"
    assert not list(out.parent.glob(".*tmp"))


def test_a_damaged_journal_is_refused_and_a_torn_one_is_mended(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    run(server, prompts, out)
    journal = journal_path(out)
    whole = journal.read_bytes().splitlines(keepends=True)
    # The torn line is the last answer's; the digest of the file stands after the answers.
    journal.write_bytes(b"".join(whole[:8]) + whole[8][:20])
    out.unlink()
    before = len(server.seen)
    assert run(server, prompts, out).rows == 8
    assert server.prompts()[before:] == ["Question 7?"]
    journal.write_bytes(whole[0] + b"oops\n" + b"".join(whole[2:]))
    with pytest.raises(InvalidFileError) as caught:
        run(server, prompts, out)
    assert caught.value.code == "invalid_journal"


def test_two_processes_do_not_work_on_one_file(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    server.before = lambda _: nested.append(_second(server, prompts, out)) if not nested else None
    nested: list[str] = []
    run(server, prompts, out)
    assert nested == ["journal_locked"]


def _second(server: FakeModels, prompts: Path, out: Path) -> str:
    try:
        run(server, prompts, out)
    except LlamaForgeError as error:
        return error.code
    return "done"


def program(*more: object) -> "subprocess.Popen[bytes]":
    code = (
        "import argparse, sys; from llamaforge.cli import data_generate as verb; "
        "parser = argparse.ArgumentParser(); verb.add_parser(parser.add_subparsers()); "
        "arguments = parser.parse_args(); sys.exit(int(arguments.run(arguments)))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_work_that_was_killed_goes_on_to_the_same_rows(
    server: FakeModels, prompts: Path, out: Path, how: signal.Signals
) -> None:
    whole = out.with_name("whole.jsonl")
    run(server, prompts, whole)
    server.seen.clear()
    held, release = threading.Event(), threading.Event()

    def hold(asked: Asked) -> None:
        if asked.prompt == "Question 5?" and not release.is_set():
            held.set()
            release.wait(20)

    server.before = hold
    first = program(*words(prompts, out))
    assert held.wait(20)
    first.send_signal(how)
    _, err = first.communicate(timeout=20)
    release.set()
    if how is signal.SIGINT:
        assert first.returncode == ExitCode.INTERRUPTED
        assert b"5 of 8 are kept" in err
        assert len([item for item in read_records(out) if isinstance(item, Record)]) == 5
    else:
        assert first.returncode == -signal.SIGKILL
        assert not out.exists()
    assert run(server, prompts, out).answers == 3
    assert out.read_bytes() == whole.read_bytes()
    asked = Counter(server.prompts())
    # The one under way when it was killed had no answer: it alone is asked again.
    assert asked.pop("Question 5?") == 2
    assert set(asked.values()) == {1}


def test_progress_counts_what_was_there_and_what_is_left(
    server: FakeModels, prompts: Path, out: Path
) -> None:
    told: list[Progress] = []
    request = GenerateRequest(sources=(prompts,), out=out)
    with open_teacher(TeacherChoice("teacher")) as teacher:
        generate(request, teacher, Watch(on_started=told.append, on_progress=told.append))
    assert (told[0].done, told[0].total, told[0].seconds_left) == (0, 8, None)
    assert (told[-1].done, told[-1].tokens, told[-1].seconds_left) == (8, 56, 0.0)
    left = [progress.seconds_left for progress in told[1:-1]]
    assert all(seconds is not None and seconds > 0 for seconds in left)


# What leaves the machine


def test_another_machine_is_asked_only_where_that_is_allowed(
    server: FakeModels, data: Command, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in (["--endpoint", "https://192.0.2.1/v1"], []):
        monkeypatch.setenv("OLLAMA_HOST", "http://192.0.2.1:11434")
        with pytest.raises(RefusedError, match="leave") as caught:
            data(*words(prompts, out, *more))
        assert caught.value.code == "remote_host"
        assert caught.value.exit_code == ExitCode.REFUSED
        assert "--allow-remote" in caught.value.hint
    assert not journal_path(out).exists()


def test_a_model_that_the_server_passes_on_is_another_machine(
    server: FakeModels, data: Command, prompts: Path, out: Path
) -> None:
    server.remote_models = {"teacher:latest"}
    with pytest.raises(RefusedError) as caught:
        data(*words(prompts, out))
    assert caught.value.code == "remote_host"
    assert server.seen == []
    assert data(*words(prompts, out, "--allow-remote")) is ExitCode.DONE


def test_a_key_never_travels_in_clear_text(
    data: Command, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    more = ["--endpoint", "http://192.0.2.1/v1", "--api-key-env", "MY_KEY", "--allow-remote"]
    with pytest.raises(RefusedError) as caught:
        data(*words(prompts, out, *more))
    assert caught.value.code == "key_in_clear"
    assert KEY not in caught.value.message


@pytest.mark.parametrize("variable", [KEY, "", "UNSET_VARIABLE", "A=B"])
def test_a_key_given_for_its_variable_is_not_shown(
    server: FakeModels, data: Command, prompts: Path, out: Path, variable: str
) -> None:
    with pytest.raises(UsageError) as caught:
        data(*words(prompts, out, "--endpoint", server.endpoint, "--api-key-env", variable))
    assert caught.value.code == "no_api_key"
    assert KEY not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "address", ["192.0.2.1:80", "ftp://x/v1", f"https://me:{KEY}@x/v1", f"https://x/v1?key={KEY}"]
)
def test_an_address_that_is_none_is_not_quoted(
    data: Command, prompts: Path, out: Path, address: str
) -> None:
    with pytest.raises(UsageError) as caught:
        data(*words(prompts, out, "--endpoint", address))
    assert caught.value.code == "bad_endpoint"
    assert KEY not in caught.value.message + caught.value.hint


def test_what_is_not_there_is_named(
    server: FakeModels, data: Command, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="no model taecher:latest") as caught:
        data("generate", prompts, "--model", "taecher", "--out", out)
    assert caught.value.hint == "Did you mean teacher:latest?"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(RefusedError) as refused:
        data(*words(prompts, out))
    assert refused.value.code == "no_server"


def test_several_equal_answers_are_not_asked_for(data: Command, prompts: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="the same"):
        data(*words(prompts, out, "--answers", 2, "--temperature", 0))
