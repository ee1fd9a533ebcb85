"""`llamaforge runs`: what is going on, what was done, and control over it."""

import argparse
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from llamaforge.cli import run_controls
from llamaforge.cli.options import add_json, add_run
from llamaforge.cli.output import confirm, console, has_dialogue, narrate, print_json, print_text
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError, UsageError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import control, events
from llamaforge.runs.directory import (
    RunDirectory,
    RunState,
    Status,
    is_deserted,
    list_runs,
    open_run,
)
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, loss_words, size_words

_NEWEST_EVENTS: Final = 20
_LIVE: Final = run_controls.LIVE
_RESUMABLE: Final = frozenset({RunState.CREATED, RunState.STOPPED, RunState.FAILED, RunState.LOST})


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb with its own verbs to the main parser."""
    parser = verbs.add_parser(
        "runs",
        help="list, show, watch, pause, stop, resume and remove runs",
        description="List the runs, newest first, or do something with one of them.",
    )
    add_json(parser)
    parser.set_defaults(run=run, action=_list)
    inner = parser.add_subparsers(title="actions", metavar="ACTION")

    def add(name: str, action: Any, words: str) -> argparse.ArgumentParser:
        part = inner.add_parser(name, help=words, description=f"{words[:1].upper()}{words[1:]}.")
        add_json(part, inherited=True)
        part.set_defaults(action=action)
        return part

    add("list", _list, "list the runs, newest first")
    add_run(add("show", _show, "show the state of a run"))
    attach = add("attach", _attach, "watch a run from any terminal")
    add_run(attach)
    attach.add_argument("--from-start", action="store_true", help="show all its events")
    attach.add_argument("--screen", action="store_true", help="watch it on the run screen")
    stop = add("stop", _stop, "let a run save a checkpoint and stop")
    add_run(stop)
    stop.add_argument("--now", action="store_true", help="end it at once, without saving")
    add_run(add("pause", run_controls.pause, "let a run save and wait, kept in memory"))
    add_run(add("save", run_controls.save, "let a run save a checkpoint now and go on"))
    sample = add("sample", run_controls.sample, "let a run answer prompts as it is now")
    add_run(sample)
    sample.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="what to ask; left out, the recipe's probe_prompts or some validation rows",
    )
    resume = add("resume", _resume, "go on with a run that is paused, stopped, failed or lost")
    add_run(resume)
    resume.add_argument("--detach", action="store_true", help="do not watch the run")
    remove = add("rm", _remove, "remove runs with everything they made")
    remove.add_argument("run_names", nargs="+", metavar="RUN", help="a run's name, or latest")
    remove.add_argument("--yes", action="store_true", help="do not ask before removing")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what was asked with the runs.

    Raises:
        NotFoundError: there is no such run.
        RefusedError: its state does not allow it.
    """
    code: ExitCode = arguments.action(arguments)
    return code


@dataclass(frozen=True)
class _Seen:
    """A run with its state and what its spec says; a spec that cannot be read says nothing."""

    run: RunDirectory
    status: Status
    model: str | None
    created: datetime | None

    @classmethod
    def of(cls, run: RunDirectory) -> "_Seen":
        """Look at a run."""
        try:
            spec = RunSpec.load(run.spec_file)
        except LlamaForgeError:
            return cls(run, run.read_status(), None, None)
        return cls(run, run.read_status(), spec.model.name, spec.created)

    def to_json(self) -> dict[str, Any]:
        """Return it as scripts get it."""
        status = self.status
        pulse = self.run.pulse(status) if status.state in _LIVE else None
        return {
            "id": self.run.id,
            "name": self.run.id,
            "state": status.state.value,
            "stage": status.stage,
            "step": status.step,
            "total": status.total,
            "pid": status.pid if status.state in _LIVE else None,
            "artifacts": self.run.artifact_list(),
            "metrics": status.metrics,
            "estimate": self.run.estimate(),
            "estimates": self.run.estimates(),
            "message": status.message,
            "silent_seconds": None if pulse is None else round(pulse.silent_seconds, 1),
            "model": self.model,
            "created": self.created.isoformat() if self.created else None,
            "path": str(self.run.path),
        }


def _list(arguments: argparse.Namespace) -> ExitCode:
    seen = [_Seen.of(run) for run in list_runs()]
    if arguments.json:
        print_json([item.to_json() for item in seen])
    elif seen:
        _print_table(seen)
    else:
        narrate("There are no runs yet. Begin with: llamaforge demo")
    return ExitCode.DONE


def _print_table(seen: list[_Seen]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("NAME", overflow="fold", ratio=3)
    table.add_column("STATE", no_wrap=True)
    table.add_column("STAGE", no_wrap=True, max_width=8)
    table.add_column("STEP", justify="right", no_wrap=True)
    table.add_column("MODEL", overflow="fold", ratio=2)
    table.add_column("CREATED", no_wrap=True)
    for item in seen:
        status = item.status
        cells = (
            item.run.id,
            status.state.value,
            status.stage or "–",
            f"{status.step}/{status.total}" if status.total else "–",
            item.model or "–",
            f"{item.created.astimezone():%Y-%m-%d %H:%M}" if item.created else "–",
        )
        table.add_row(*(Text(safe_line(cell, limit=120)) for cell in cells))
    console().print(table)


def _show(arguments: argparse.Namespace) -> ExitCode:
    from llamaforge.cli.report import phase_words, print_report

    seen = _Seen.of(open_run(arguments.run_name))
    status = seen.status
    if arguments.json:
        print_json(seen.to_json())
        return ExitCode.DONE
    if status.state is RunState.FINISHED:
        print_report(seen.run)
        return ExitCode.DONE
    facts = {
        "run": seen.run.id,
        "state": status.state.value,
        "why": status.message,
        "stage": status.stage,
        "step": f"{status.step:,} of {status.total:,}" if status.total else "",
        "process": str(status.pid) if status.state in _LIVE else "",
        "model": seen.model or "",
        "folder": str(seen.run.path),
    }
    facts |= _metric_words(status) | phase_words(seen.run.estimates())
    for name, value in facts.items():
        if value:
            print_text(safe_line(f"{name}: {value}", limit=400))
    if status.state in _LIVE:
        print_text(f"Watch it: llamaforge runs attach {seen.run.id}")
    else:
        print_text(f"Go on with it: llamaforge runs resume {seen.run.id}")
    return ExitCode.DONE


def _metric_words(status: Status) -> dict[str, str]:
    """Return a run's figures as people read them; those of later versions as they stand."""
    words: dict[str, tuple[str, Callable[[float], str]]] = {
        "learning_rate": ("learning rate", lambda value: f"{value:.3g}"),
        "tokens_per_second": ("tokens a second", lambda value: f"{value:,.0f}"),
        "memory_bytes": ("memory", size_words),
        "eta_seconds": ("time left", duration_words),
        "eval_loss": ("loss on the validation rows", loss_words),
        "loss": ("loss", loss_words),
    }
    facts = {}
    for key, value in status.metrics.items():
        if value is None or (key == "eta_seconds" and status.state not in _LIVE):
            continue
        title, said = words.get(key, (key.replace("_", " "), str))
        facts[title] = said(value) if isinstance(value, int | float) else str(value)
    return facts


def _attach(arguments: argparse.Namespace) -> ExitCode:
    from llamaforge.cli.main import open_screens
    from llamaforge.cli.progress import tell_failure, watch
    from llamaforge.cli.report import print_report, read_events

    run = open_run(arguments.run_name)
    state = run.read_status().state
    if state is RunState.CREATED:
        raise RefusedError(
            f"The run {run.id} has not begun.",
            f"Begin it with: llamaforge runs resume {run.id}",
            code="not_running",
        )
    if arguments.screen:
        return open_screens(run=run.id)
    if arguments.json or arguments.from_start or state in _LIVE:
        newest = deque((event.seq for event in read_events(run)), maxlen=_NEWEST_EVENTS)
        first = 1 if arguments.from_start or not newest else newest[0]
        return watch(run, as_json=arguments.json, after_seq=first - 1)
    if state is RunState.FINISHED:
        print_report(run)
        return ExitCode.DONE
    failures = [event for event in read_events(run) if isinstance(event, events.Failed)]
    if state is RunState.FAILED and failures:
        return tell_failure(failures[-1])
    narrate(
        f"The run {run.id} is {state.value}{_saved(run)}. Go on with: "
        f"llamaforge runs resume {run.id}"
    )
    return ExitCode.INTERRUPTED if state is RunState.STOPPED else ExitCode.FAILED


def _stop(arguments: argparse.Namespace) -> ExitCode:
    from llamaforge.cli.launching import last_seq
    from llamaforge.cli.progress import SignsOfLife, end_worker, wait_for_end
    from llamaforge.runs.tail import follow

    run = open_run(arguments.run_name)
    state = run.read_status().state
    if state not in _LIVE:
        raise RefusedError(
            f"The run {run.id} is not running: it is {state.value}.",
            "See: llamaforge runs list",
            code="not_running",
        )
    before = last_seq(run)
    if arguments.now:
        end_worker(run)
    else:
        control.ask(run, control.Request.STOP)
        narrate("Waiting for the worker to save a checkpoint …")
    life = SignsOfLife(run)
    for _ in follow(run, after_seq=before):  # until no worker will write any more
        if said := life.look():
            narrate(said)
    wait_for_end(run)
    if arguments.json:
        print_json(_Seen.of(run).to_json() | {"checkpoint": _checkpoint(run)})
    else:
        print_text(f"The run {run.id} is {run.read_status().state.value}{_saved(run)}.")
    return ExitCode.DONE


def _checkpoint(run: RunDirectory) -> int | None:
    """Return the step of the newest checkpoint that was committed."""
    from llamaforge.cli.report import read_events

    saved = [event.step for event in read_events(run) if isinstance(event, events.Checkpoint)]
    return saved[-1] if saved else None


def _saved(run: RunDirectory) -> str:
    step = _checkpoint(run)
    return "; no checkpoint was saved" if step is None else f"; step {step:,} is saved"


def _resume(arguments: argparse.Namespace) -> ExitCode:
    from llamaforge.cli.launching import carry_out, last_seq
    from llamaforge.cli.progress import watch

    run = open_run(arguments.run_name)
    status = run.read_status()
    state = RunState.LOST if is_deserted(run) else status.state
    if state is RunState.PAUSED:
        before = last_seq(run)
        run_controls.unpause(run)
        if not arguments.detach:
            return watch(run, as_json=arguments.json, after_seq=before)
        if arguments.json:
            print_json(_Seen.of(run).to_json())
        else:
            print_text(f"The run {run.id} goes on.")
        return ExitCode.DONE
    if state in _LIVE:
        place = f"{safe_line(status.host, limit=60)}, " if status.host else ""
        raise RefusedError(
            f"The run {run.id} is running: {place}process {status.pid} holds it.",
            safe_line(status.message, limit=400)
            or f"Watch it with: llamaforge runs attach {run.id}",
            code="run_running",
        )
    if state not in _RESUMABLE:
        raise RefusedError(
            f"The run {run.id} is {state.value}: nothing is left to do.",
            f"See what came of it: llamaforge runs show {run.id}",
            code="run_finished",
        )
    RunSpec.load(run.spec_file)  # a damaged one is told here; the worker could only log it
    return carry_out(run, detach=arguments.detach, as_json=arguments.json)


def _remove(arguments: argparse.Namespace) -> ExitCode:
    from llamaforge.runs.removing import remove_run, require_no_worker

    chosen = list({run.id: run for run in map(open_run, arguments.run_names)}.values())
    for run in chosen:
        require_no_worker(run)
    names = ", ".join(run.id for run in chosen)
    if not arguments.yes:
        if arguments.json or not has_dialogue():
            raise UsageError("Removing runs must be confirmed.", "Add --yes.", code="not_confirmed")
        if not confirm(f"Remove {names} with everything made there?", default=False):
            narrate("Nothing was removed.")
            return ExitCode.INTERRUPTED
    for run in chosen:
        remove_run(run)
    if arguments.json:
        print_json({"removed": [run.id for run in chosen]})
    else:
        print_text(f"Removed: {names}")
    return ExitCode.DONE
