"""Reading a run directory into a view; every method may wait for the disk."""

import json
from collections.abc import Iterable
from dataclasses import replace

from llamaforge.catalog.names import parse_name
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.control import Request, is_asked
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.tail import EventTail, glance
from llamaforge.tui.run_reducer import reduce, with_status
from llamaforge.tui.run_view import RunView, begin_view


class RunFeed:
    """The view of one run, brought up to date whenever it is asked for."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._tail = EventTail(run)
        self._view: RunView | None = None
        self._has_glanced = False
        self._journal = (0, "")
        """When the journal was last changed, and the name that it told then."""

    def read(self) -> RunView:
        """Return the run as of now, after everything that was appended since the last call.

        The first call gives no more than a first picture of a run of days.

        Raises:
            OSError: the run directory cannot be read.
        """
        view = self._view or self._begin()
        # The state is read before the events: what a worker wrote before it ended is not lost.
        status = self._run.read_status()
        asked = frozenset(request for request in Request if is_asked(self._run, request))
        if self._view is None and not self._has_glanced:
            self._has_glanced = True
            if some := glance(self._run.events_file):
                # Shown until the next call, which reads the whole file.
                return with_status(reduce(view, some), status, asked=asked)
        for new in self._tail.catch_up():
            view = reduce(view, new)
        self._view = view
        if not view.published and (published := self._published()):
            view = replace(view, published=published)
        return with_status(view, status, asked=asked)

    def _published(self) -> str:
        """Return under which name the result was published by hand, as the journal says."""
        try:
            changed = self._run.journal_file.stat().st_mtime_ns
            if changed != self._journal[0]:
                lines = self._run.journal_file.read_bytes().splitlines()
                self._journal = (changed, _last_published(lines))
        except OSError:
            return ""
        return self._journal[1]

    def _begin(self) -> RunView:
        try:
            spec = RunSpec.load(self._run.spec_file)
        except LlamaForgeError:  # the events tell enough to show the run
            return begin_view(self._run.id)
        return begin_view(
            self._run.id,
            model=spec.model.name,
            publish=spec.publish.name or "",
            epochs=None if spec.training.max_steps else spec.training.num_train_epochs,
            questions=tuple(spec.evaluation.probe_prompts),
            knows_before=spec.training.use_peft,
        )


def _last_published(lines: Iterable[bytes]) -> str:
    """Return the name of the newest publication that came to its end; empty where none did."""
    names: dict[object, str] = {}
    newest = ""
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["change"] != "publish":
                continue
            if entry["phase"] == "intent":
                names[entry["id"]] = parse_name(str(entry["model"])).short
            elif entry["phase"] == "done":
                newest = names.get(entry["id"], newest)
        except (ValueError, KeyError, TypeError, LlamaForgeError):
            continue  # half a line, or one of a later version
    return newest
