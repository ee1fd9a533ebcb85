"""`watch`: every event once, plain lines now and then, and what each end of a run means."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llamaforge.cli.main import main
from llamaforge.cli.picture import Picture
from llamaforge.cli.progress import watch
from llamaforge.errors import ExitCode, RefusedError
from llamaforge.hardware import process_start
from llamaforge.runs import control, events
from llamaforge.runs.directory import RunDirectory, RunState, Status, is_process
from llamaforge.runs.lock import RunLock

Capture = pytest.CaptureFixture[str]
MakeRun = Callable[..., RunDirectory]
HOSTILE = "\x1b[2J\x9b31m\u202ex\n[red]y[/nothing]"


def step(number: int, total: int = 20, **more: Any) -> events.Step:
    return events.Step(
        step=number,
        total=total,
        loss=1.5,
        learning_rate=2e-4,
        tokens_per_second=1234.5,
        memory_bytes=1_200_000_000,
        epoch=0.5,
        eta_seconds=125.0,
        **more,
    )


def started(**more: Any) -> events.Started:
    return events.Started(run="one", pid=1, **more)


def finished(state: str = "finished") -> events.Finished:
    return events.Finished(run="one", state=state)


def failed(code: int = 3) -> events.Failed:
    return events.Failed(code="bad", message="It broke.", hint="Mend it.", exit_code=code)


def test_json_is_every_event_as_it_stands_in_the_file(make_run: MakeRun, capsys: Capture) -> None:
    written = [started(), step(1), events.Warn(code="w", message=HOSTILE), finished()]
    run = make_run("one", *written, state=RunState.FINISHED)
    assert watch(run, as_json=True) is ExitCode.DONE
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert all(char.isprintable() or char == "\n" for char in shown)
    lines = [json.loads(line) for line in shown.splitlines()]
    assert lines == [json.loads(line) for line in run.events_file.read_text().splitlines()]
    assert {"v", "seq", "t", "type"} <= set(lines[0])


def test_json_passes_on_events_of_a_newer_program(make_run: MakeRun, capsys: Capture) -> None:
    run = make_run("one", started(), state=RunState.FINISHED)
    newer = {"v": 2, "seq": 2, "t": 1.0, "type": "telepathy", "strength": 9}
    with run.events_file.open("a") as file:
        file.write(json.dumps(newer) + "\n")
    watch(run, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == newer


def test_events_up_to_a_number_are_left_out(make_run: MakeRun, capsys: Capture) -> None:
    run = make_run("one", started(), step(1), step(2), finished(), state=RunState.FINISHED)
    watch(run, as_json=True, after_seq=2)
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [3, 4]


def test_events_are_shown_as_a_worker_writes_them(
    make_run: MakeRun, alive: dict[str, Any], capsys: Capture
) -> None:
    run = make_run("one", started(), state=RunState.RUNNING, **alive)

    def work() -> None:
        writer = events.EventWriter(run.events_file)
        for number in range(1, 201):
            writer.write(step(number, 200))
        writer.write(finished())
        writer.close()
        run.write_status(Status(state=RunState.FINISHED))

    worker = threading.Thread(target=work)
    worker.start()
    assert watch(run, as_json=True) is ExitCode.DONE
    worker.join()
    numbers = [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]
    assert numbers == list(range(1, 203))


def test_the_end_is_told_once_the_state_says_so_and_the_run_is_free(
    make_run: MakeRun, alive: dict[str, Any]
) -> None:
    run = make_run("one", started(), finished(), state=RunState.RUNNING, **alive)
    held = threading.Event()
    freed: list[float] = []

    def end() -> None:
        with RunLock(run.lock_file):
            held.set()
            time.sleep(0.3)
            run.write_status(Status(state=RunState.FINISHED))
            time.sleep(0.3)
            freed.append(time.monotonic())

    worker = threading.Thread(target=end)
    worker.start()
    held.wait()
    assert watch(run, as_json=True) is ExitCode.DONE
    assert freed
    assert time.monotonic() >= freed[0]
    worker.join()


@pytest.mark.parametrize(
    ("last", "state", "code"),
    [
        ([finished("finished")], RunState.FINISHED, ExitCode.DONE),
        ([finished("stopped")], RunState.STOPPED, ExitCode.INTERRUPTED),
        ([failed(3), finished("failed")], RunState.FAILED, ExitCode.REFUSED),
        ([failed(1), finished("failed")], RunState.FAILED, ExitCode.FAILED),
        ([failed(99), finished("failed")], RunState.FAILED, ExitCode.FAILED),
        ([], RunState.LOST, ExitCode.FAILED),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_the_exit_code_says_how_it_ended(
    last: list[events.Event],
    state: RunState,
    code: ExitCode,
    as_json: bool,
    make_run: MakeRun,
) -> None:
    run = make_run("one", started(), *last, state=state)
    assert watch(run, as_json=as_json) is code


def test_a_failure_is_told_in_its_two_sentences(make_run: MakeRun, capsys: Capture) -> None:
    run = make_run("one", started(), failed(), finished("failed"), state=RunState.FAILED)
    watch(run, as_json=False)
    assert capsys.readouterr().err.endswith("error: It broke. Mend it.\n")


def test_a_worker_that_is_gone_is_told_with_how_to_go_on(
    make_run: MakeRun, capsys: Capture
) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    run = make_run("one", started(), step(1), state=RunState.RUNNING, pid=done.pid, pid_started=1.0)
    assert watch(run, as_json=False) is ExitCode.FAILED
    shown = capsys.readouterr().err
    assert "llamaforge runs resume one" in shown
    assert str(run.log_file) in shown


def test_a_failure_before_a_resume_is_not_the_outcome(make_run: MakeRun) -> None:
    written = [started(), failed(), finished("failed"), started(resumed=True), finished()]
    run = make_run("one", *written, state=RunState.FINISHED)
    assert watch(run, as_json=True) is ExitCode.DONE


def test_plain_lines_say_what_happened_and_cannot_command_the_terminal(
    make_run: MakeRun, capsys: Capture
) -> None:
    run = make_run(
        "one",
        started(resumed=True),
        events.Stage(name="prepare", state="skipped"),
        events.Stage(name="train", state="started"),
        step(1),
        events.Eval(step=1, loss=2.25),
        events.Checkpoint(step=1, path="x"),
        events.Warn(code="w", message=HOSTILE),
        events.Stage(name="train", state="finished", seconds=3725.0),
        events.Artifact(kind="adapter", path="/runs/one/adapter.gguf", sha256="0"),
        finished(),
        state=RunState.FINISHED,
    )
    watch(run, as_json=False)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "resumed",
        "prepare: nothing to do",
        "train: begun",
        "train 1/20 steps: loss 1.5000, 1,234 tokens/s, 1.2 GB memory, 2 min 05 s left",
        "step 1: loss on the validation rows 2.2500",
        "step 1: checkpoint saved",
        "warning: \\x1b[2J\\x9b31m\\u202ex [red]y[/nothing]",
        "train: done in 1 h 02 min",
        "made: adapter, /runs/one/adapter.gguf",
    ]
    assert printed.out.startswith("The run one on qwen2.5:3b is finished.")


def test_progress_without_a_known_end_has_no_end_in_its_line() -> None:
    picture = Picture()
    picture.take(events.Stage(name="prepare", state="started"))
    shown = []
    for done in (0, 1200):
        event = events.Progress(stage="prepare", done=done, total=0, unit="rows read")
        picture.take(event)
        shown.append(picture.progress_line(event))
    assert shown == [None, "prepare 1,200 rows read"]


def test_nothing_is_said_of_a_publication_that_nobody_asked_for() -> None:
    assert Picture().take(events.Stage(name="publish", state="skipped")) is None


def lines_of(times: list[float]) -> list[int]:
    """Return which of the steps at `times` got a line."""
    picture = Picture()
    picture.take(events.Stage(name="train", state="started"))
    shown = []
    for number, at in enumerate(times, start=1):
        event = step(number, len(times), t=at)
        picture.take(event)
        if picture.progress_line(event) is not None:
            shown.append(number)
    return shown


def test_slow_steps_get_a_line_each_and_fast_ones_one_a_second() -> None:
    assert lines_of([10.0 * number for number in range(1, 6)]) == [1, 2, 3, 4, 5]
    assert lines_of([0.5 * number for number in range(1, 26)]) == [1, 11, 21, 25]
    assert lines_of([0.01 * number for number in range(1, 251)]) == [1, 101, 201, 250]


def test_a_loss_that_is_no_number_is_shown_as_unknown() -> None:
    picture = Picture()
    picture.take(
        events.Step(
            step=1, total=2, loss=None, learning_rate=0.1, tokens_per_second=1.0, memory_bytes=1,
            epoch=0.0,
        )
    )  # fmt: skip
    assert picture.figures() == "loss –, 1 tokens/s, 1 B memory"


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_the_live_display_fits_the_terminal_and_names_the_stages(columns: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=columns, force_terminal=True, color_system=None)
    picture = Picture()
    console.print(picture.render())
    for event in (
        events.Stage(name="prepare", state="finished"),
        events.Stage(name="train", state="started"),
        step(5),
        events.Eval(step=5, loss=1.25),
    ):
        picture.take(event)
    console.print(picture.render())
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= columns
    assert "[x] prepare" in " ".join(shown.split())
    if columns >= 80:
        assert "[>] train  [ ] export" in shown
        assert "5/20 steps" in shown
        assert "loss on the validation rows 1.2500" in shown
    assert "publish" not in shown


def interrupt_when(condition: Callable[[], object]) -> threading.Thread:
    """Press Ctrl-C once `condition` holds."""

    def press() -> None:
        while not condition():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_ctrl_c_asks_the_worker_to_save_and_stop(
    make_run: MakeRun, alive: dict[str, Any], capsys: Capture
) -> None:
    run = make_run("one", started(), state=RunState.RUNNING, **alive)
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        while not control.is_asked(run, control.Request.STOP):
            time.sleep(0.01)
        writer = events.EventWriter(run.events_file)
        writer.write(events.Checkpoint(step=7, path="x"))
        writer.write(finished("stopped"))
        writer.close()
        run.write_status(Status(state=RunState.STOPPED))

    worker = threading.Thread(target=work)
    worker.start()
    pressed = interrupt_when(lambda: signal.getsignal(signal.SIGINT) is not before)
    assert watch(run, as_json=False) is ExitCode.INTERRUPTED
    worker.join()
    pressed.join()
    shown = capsys.readouterr().err
    assert "Saving a checkpoint and stopping; press Ctrl-C again to end at once." in shown
    assert "step 7: checkpoint saved" in shown
    assert "llamaforge runs resume one" in shown
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_worker(make_run: MakeRun, capsys: Capture) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True
    )
    try:
        born = process_start(worker.pid)
        state = {"pid": worker.pid, "pid_started": born}
        run = make_run("one", started(), state=RunState.RUNNING, **state)
        before = signal.getsignal(signal.SIGINT)
        first = interrupt_when(lambda: signal.getsignal(signal.SIGINT) is not before)
        second = interrupt_when(lambda: control.is_asked(run, control.Request.STOP))
        assert watch(run, as_json=True) is ExitCode.INTERRUPTED
        first.join()
        second.join()
        assert not is_process(worker.pid, born)
    finally:
        worker.kill()
        worker.wait()
    assert "The worker was ended." in capsys.readouterr().err


def test_a_worker_on_another_machine_is_not_ended_from_here(
    make_run: MakeRun, alive: dict[str, Any]
) -> None:
    from llamaforge.cli.progress import end_worker

    run = make_run("one", started(), state=RunState.RUNNING, host="elsewhere", **alive)
    run.pulse_file.write_text("{}")
    with pytest.raises(RefusedError, match="elsewhere"):
        end_worker(run)


@pytest.mark.parametrize("columns", [20, 80])
def test_on_a_terminal_the_display_is_live_and_leaves_the_lines(
    columns: int, make_run: MakeRun, home: Path
) -> None:
    many = [step(number, 400) for number in range(1, 401)]
    stage = events.Stage(name="train", state="started")
    warn = events.Warn(code="w", message="\x9b2J[bold]warned")
    run = make_run("one", started(), stage, *many, warn, failed(), finished("failed"),
                   state=RunState.FAILED)  # fmt: skip
    code = (
        "from llamaforge.runs.directory import open_run; "
        "from llamaforge.cli.progress import watch; import sys; "
        f"sys.exit(watch(open_run({run.id!r}), as_json=False))"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    worker = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert worker.wait(timeout=20) == 3
    text = shown.decode()
    assert b"\x9b" not in shown.replace("–".encode(), b"")
    assert "\\x9b2J[bold]warned" in text.replace("\r\n", "")
    assert "error:" in text
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text


def test_attaching_to_a_finished_run_prints_its_report(make_run: MakeRun, capsys: Capture) -> None:
    make_run("one", started(), finished(), state=RunState.FINISHED)
    assert main(["runs", "attach", "one"]) == 0
    assert "is finished." in capsys.readouterr().out
