"""Starting a worker and watching it: what `train`, `demo`, `wizard` and `resume` share."""

from llamaforge.cli.output import narrate, narrate_error, print_json, print_text
from llamaforge.cli.progress import watch
from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.events import parse_event
from llamaforge.runs.launcher import launch


def note(problem: LlamaForgeError) -> None:
    """Say what could not be looked at; it stops nothing."""
    narrate_error(problem, kind="note")


def carry_out(run: RunDirectory, *, detach: bool, as_json: bool) -> ExitCode:
    """Start a worker on `run`, then watch it or, with `detach`, say how to.

    Raises:
        LlamaForgeError: the worker did not start.
    """
    before = last_seq(run)
    try:
        pid = launch(run)
    except KeyboardInterrupt:
        narrate(
            f"The run {run.id} may have begun. Watch it: llamaforge runs attach {run.id}; "
            f"stop it: llamaforge runs stop {run.id}"
        )
        raise
    if not detach:
        if not as_json:
            narrate(f"The run {run.id} has begun; it goes on if this terminal closes.")
        return watch(run, as_json=as_json, after_seq=before)
    if as_json:
        print_json({"run": run.id, "path": str(run.path), "pid": pid})
    else:
        print_text(run.id)
        narrate(f"It is carried out by process {pid}. Watch it: llamaforge runs attach {run.id}")
    return ExitCode.DONE


def last_seq(run: RunDirectory) -> int:
    """Return the number of the run's newest event, 0 where there is none."""
    newest = 0
    if run.events_file.exists():
        with run.events_file.open("rb") as file:
            for line in file:
                event = parse_event(line)
                newest = newest if event is None else event.seq
    return newest
