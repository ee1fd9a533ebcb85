"""What a person may ask of a run that is watched, and the words of what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from textual.binding import Binding, BindingType
from textual.message import Message

from llamaforge.errors import LlamaForgeError
from llamaforge.runs import control
from llamaforge.runs.control import Request
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.runs.launcher import launch
from llamaforge.tui.run_view import RunView
from llamaforge.tui.screens.base import FollowingScreen
from llamaforge.tui.screens.dialogs import Question

_RESUMABLE: Final = frozenset({RunState.CREATED, RunState.STOPPED, RunState.FAILED, RunState.LOST})


@dataclass(frozen=True, slots=True)
class _Wish:
    """Something that was asked for on this screen and has not come yet."""

    saved: int | None
    sampled: int | None
    """The steps of the newest checkpoint and answers when it was asked."""


class RunKeys(FollowingScreen[None]):
    """A screen with the keys of one run; each wish is a file, and the worker answers by events."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="monitor.pause"),
        Binding("p", "go_on", "Go on", id="monitor.go_on"),
        Binding("s", "save", "Save", id="monitor.save"),
        Binding("a", "sample", "Ask…", id="monitor.sample"),
        Binding("x", "stop", "Stop…", id="monitor.stop"),
    ]

    @dataclass
    class Refused(Message):
        """Something could not be done."""

        text: str

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run_directory = run
        self.view: RunView | None = None
        self._wishes: dict[Request, _Wish] = {}
        self._starting = False

    def allows(self, action: str) -> bool | None:
        """Return whether a key of the run does something now; None hides nothing and dims it."""
        view = self.view
        if view is None:
            return False
        is_resumable = view.state in _RESUMABLE and not self._starting
        is_held = view.state is RunState.PAUSED and view.pause_reason == "asked"
        match action:
            case "stop":
                return view.is_live and not view.stop_asked
            case "pause":
                return view.is_training and not view.stop_asked and Request.PAUSE not in view.asked
            case "go_on":
                return is_resumable or (is_held and Request.PAUSE in view.asked)
            case "save":
                return view.is_training and Request.SAVE not in view.asked
            case _:  # sample
                return view.is_training and Request.SAMPLE not in view.asked

    def action_stop(self) -> None:
        """Ask whether to stop, then ask the worker to."""
        question = Question(
            "Stop this run?",
            "The worker finishes its step, saves a checkpoint and ends. Nothing is lost: later it "
            f"goes on from there with p here, or: llamaforge runs resume {self.run_directory.id}",
            yes="Stop and keep",
            no="Let it run",
        )
        self.app.push_screen(question, lambda yes: self._ask(Request.STOP) if yes else None)

    def action_pause(self) -> None:
        """Let the worker wait, with everything kept in memory."""
        self._ask(Request.PAUSE)

    def action_save(self) -> None:
        """Let the worker save a checkpoint after this step."""
        self._ask(Request.SAVE)

    def action_sample(self) -> None:
        """Ask what the model shall answer as it is now."""
        from llamaforge.tui.screens.ask import AskScreen  # noqa: PLC0415 - seldom opened

        view = self.view
        if view is not None:
            screen = AskScreen(view.questions, knows_before=view.knows_before)
            self.app.push_screen(screen, self._ask_model)

    def _ask_model(self, questions: tuple[str, ...] | None) -> None:
        if questions is None:
            return
        if not self.allows("sample"):  # the training ended meanwhile
            self.tell("Too late: the run does not train any more.")
            return
        self._ask(Request.SAMPLE, questions)
        self.show_answers()

    def show_answers(self) -> None:
        """Turn to where the answers will appear."""
        raise NotImplementedError

    def action_go_on(self) -> None:
        """Let a paused worker go on, or start one for a run that was left."""
        view = self.view
        if view is not None and view.state is RunState.PAUSED:
            self.run_worker(self._unpause, thread=True, group="ask", exit_on_error=False)
        elif view is not None and not self._starting:
            self._starting = True
            self.refresh_bindings()
            self.tell("The worker is being started …")
            self.run_worker(self._launch, thread=True, group="launch", exit_on_error=False)

    def _ask(self, request: Request, questions: Sequence[str] = ()) -> None:
        view = self.view
        if view is None:
            return
        self._wishes[request] = _Wish(view.checkpoint_step, view.sampled_step)

        def leave() -> None:
            try:
                if request is Request.SAMPLE:
                    control.ask_samples(self.run_directory, questions)
                else:
                    control.ask(self.run_directory, request)
            except LlamaForgeError as error:
                self.post_message(self.Refused(error.message))

        self.run_worker(leave, thread=True, group="ask", exit_on_error=False)

    def _unpause(self) -> None:
        control.withdraw(self.run_directory, Request.PAUSE)

    def _launch(self) -> None:
        try:
            launch(self.run_directory)
        except (LlamaForgeError, OSError) as error:
            words = (
                f"{error.message} {error.hint}"
                if isinstance(error, LlamaForgeError)
                else f"The worker cannot be started: {error.strerror}."
            )
            self.post_message(self.Refused(words))
        finally:
            self._starting = False

    def on_run_keys_refused(self, message: Refused) -> None:
        """Say what could not be done."""
        self.tell(message.text, bad=True)
        self.refresh_bindings()

    def tell_answers(self, view: RunView) -> None:
        """Say what came of the wishes, once each; `view` is the newest."""
        for request, wish in tuple(self._wishes.items()):
            words = _answer(request, wish, view)
            if words is None and not view.is_training and request is not Request.STOP:
                if view.state is RunState.PAUSED or request in view.asked:
                    continue
                words = f"That did not happen: the run is {_place(view)} now."
            if words is not None:
                del self._wishes[request]
                self.tell(words)


def _answer(request: Request, wish: _Wish, view: RunView) -> str | None:
    """Return what came of a wish, or None while nothing has."""
    match request:
        case Request.SAVE if view.checkpoint_step not in {wish.saved, None}:
            return f"Saved at step {view.checkpoint_step:,}."
        case Request.SAMPLE if view.sampled_step not in {wish.sampled, None}:
            return f"The answers after step {view.sampled_step:,} are here."
        case Request.PAUSE if view.state is RunState.PAUSED:
            return f"Paused after step {view.step:,}. Press p to go on."
        case Request.STOP if view.is_over:
            return f"The run is {view.state.value}; what it had is kept."
        case _:
            return None


def _place(view: RunView) -> str:
    stage = view.stage
    if view.is_over:
        return view.state.value
    return f"at its stage {stage.name}" if stage else "between two stages"
