"""What a run is doing or how it ended, in one sentence with what to do next."""

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from llamaforge.runs.control import Request
from llamaforge.runs.directory import RunState
from llamaforge.safe_text import safe_line
from llamaforge.tui.run_view import Failure, RunView
from llamaforge.words import duration_words

QUIET_SECONDS: Final = 120.0
"""After so long without an event the screen says so; a step of a large model may take that long."""

_DOING: Final = {
    "prepare": "Reading the rows and turning them into tokens.",
    "train": "Training; what was learned is saved now and then.",
    "export": "Writing what was trained as a GGUF file.",
    "verify": "Checking that llama.cpp serves exactly what was trained.",
    "evaluate": "The model before and after training answers the held-out rows.",
    "publish": "Handing the result to Ollama.",
}


_WISHES: Final = {
    Request.SAVE: "A checkpoint is saved after this step.",
    Request.SAMPLE: "After this step the model answers some prompts.",
}


class Tone(StrEnum):
    """How a sentence is meant; it has its own mark and colour."""

    CALM = "calm"
    GOOD = "good"
    CARE = "care"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Headline:
    """One sentence of what is, one of what to do."""

    tone: Tone
    text: str
    hint: str = ""


def headline(  # noqa: PLR0911 - a sentence for each state
    view: RunView, *, log_file: Path, quiet_seconds: float
) -> Headline:
    """Return what to tell a person about the run as it is now.

    `quiet_seconds` have passed since its last event.
    """
    resume = f"llamaforge runs resume {shlex.quote(view.run)}"
    log = safe_line(str(log_file))
    match view.state:
        case RunState.CREATED:
            return Headline(Tone.CALM, "The run has not begun yet.", f"Start it with: {resume}")
        case RunState.RUNNING:
            return _running(view, quiet_seconds)
        case RunState.PAUSED:
            return _paused(view)
        case RunState.FINISHED:
            return Headline(Tone.GOOD, f"Finished. It took {duration_words(view.t)}.")
        case RunState.STOPPED:
            return Headline(Tone.CARE, f"Stopped as asked{_saved(view)}.", f"Go on with: {resume}")
        case RunState.FAILED:
            failure = view.failure or Failure("", "The run failed.", f"The worker's log: {log}")
            return Headline(Tone.BAD, failure.message, failure.hint)
        case RunState.LOST:
            return Headline(
                Tone.BAD,
                f"The worker is gone: its process ended without a last word{_saved(view)}.",
                f"Go on with: {resume}   The worker's log: {log}",
            )


def next_commands(view: RunView) -> tuple[tuple[str, str], ...]:
    """Return what may be done with a finished run: what it is for, and the command."""
    if view.state is not RunState.FINISHED:
        return ()
    run = shlex.quote(view.run)
    talk = ("Talk to it", f"press t, or: llamaforge chat {run}")
    export = ("Take it along", f"press e, or: llamaforge export {run} --as gguf")
    if view.published:
        return (talk, ("In Ollama", f"ollama run {shlex.quote(view.published)}"), export)
    publish = ("Publish to Ollama", f"press u, or: llamaforge publish {run} --name MY-MODEL")
    commands = [talk, publish, export]
    modelfile = view.artifact("modelfile")
    if modelfile is not None:
        path = shlex.quote(modelfile.path)
        commands.append(("Or by hand", f"ollama create MY-MODEL -f {path}"))
    return tuple(commands)


def _running(view: RunView, quiet_seconds: float) -> Headline:
    stage = view.stage
    doing = _DOING.get(stage.name.split(" ")[0], "At work.") if stage else "Between two stages."
    if view.stop_asked:
        hint = "" if quiet_seconds < QUIET_SECONDS else _quiet(quiet_seconds)
        text = "Stopping: the worker finishes what it is at and saves a checkpoint first."
        return Headline(Tone.CARE, text, hint)
    if Request.PAUSE in view.asked:
        text = "Pausing: the worker finishes its step and saves a checkpoint first."
        return Headline(Tone.CARE, text)
    if view.trouble:
        return Headline(Tone.BAD, doing, view.trouble)
    for request, text in _WISHES.items():
        if request in view.asked:
            return Headline(Tone.CALM, text)
    if quiet_seconds >= QUIET_SECONDS:
        return Headline(Tone.CARE, doing, _quiet(quiet_seconds))
    return Headline(Tone.CALM, doing)


def _paused(view: RunView) -> Headline:
    if view.stop_asked:
        return Headline(Tone.CARE, "Stopping: what it has is saved already.")
    if view.pause_reason == "asked":
        if Request.PAUSE not in view.asked:
            return Headline(Tone.CALM, "Going on …")
        text = f"Paused after step {view.step:,}; it is saved, and kept in memory."
        return Headline(Tone.CARE, text, "Go on with p.")
    return Headline(Tone.CARE, view.waits)


def _quiet(seconds: float) -> str:
    return f"Nothing new for {duration_words(seconds)}; the worker's process is still there."


def _saved(view: RunView) -> str:
    if view.checkpoint_step is None:
        return ""
    return f"; the last checkpoint is of step {view.checkpoint_step:,}"
