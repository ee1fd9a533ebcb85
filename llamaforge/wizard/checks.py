"""What is looked at before anything is written, each as a line with a verdict and a way out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from llamaforge import paths
from llamaforge.catalog.host import resolve_host
from llamaforge.errors import LlamaForgeError
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.preflight import check_disk, check_memory, needs_of
from llamaforge.recipe.resolve import resolve
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import check_run_name
from llamaforge.safe_text import safe_line
from llamaforge.wizard.beginning import facts_of
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.questions import advice_for
from llamaforge.words import size_words

Verdict = Literal["pass", "warn", "fail"]
_RUN: Final = "wizard"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    title: str
    verdict: Verdict
    message: str
    hint: str = ""
    """What to do about it; empty where nothing is."""


def checks(draft: Draft, facts: Facts) -> list[Check]:
    """Return what stands for and against beginning the run of a draft."""
    found = [*_rows(facts)]
    try:
        spec = spec_of(draft, facts)
    except LlamaForgeError as error:
        return [*found, Check("Recipe", "fail", error.message, error.hint)]
    found += _machine(spec)
    found += _template(facts)
    if draft.publish:
        found.append(_server(spec))
    return found


def spec_of(draft: Draft, facts: Facts) -> RunSpec:
    """Return the run spec of a draft, with nothing left open.

    Raises:
        LlamaForgeError: the model is gone, or an answer is none that a run can have.
    """
    model = facts.model(draft.model)
    if model is None or model.blob is None or model.store is None:
        raise LlamaForgeError(
            f"The model {safe_line(draft.model)} cannot be trained.",
            "Choose another one.",
            code="no_model",
        )
    name = draft.name or _RUN
    check_run_name(name)
    return resolve(
        draft.recipe(advice_for(draft, facts)),
        facts_of(model),
        name,
    )


def _rows(facts: Facts) -> Iterator[Check]:
    report = facts.report
    if not report:
        yield Check("Rows", "warn", "They have not been looked through yet.")
        return
    if "rows" not in report:
        yield Check("Rows", "fail", str(report.get("message", "")), str(report.get("hint", "")))
        return
    stops = [item for item in report["problems"] if item["level"] == "stop"]
    warnings = [item for item in report["problems"] if item["level"] == "warn"]
    if not stops:
        more = f"; {len(warnings)} things to know" if len(warnings) > 1 else ""
        yield Check("Rows", "pass", f"{facts.rows.count:,} can be trained on{more}.")
    for item in stops:
        yield Check("Rows", "fail", safe_line(item["message"], limit=300))
    for item in warnings:
        yield Check("Rows", "warn", safe_line(item["message"], limit=300))


def _machine(spec: RunSpec) -> Iterator[Check]:
    try:
        needs = needs_of(spec, read_model(spec.model.blob, spec.model.files))
    except LlamaForgeError as error:
        yield Check("Model", "fail", error.message, error.hint)
        return
    yield _room(
        "Memory", f"at least {size_words(needs.memory)}", partial(check_memory, needs.memory)
    )
    disk = partial(check_disk, paths.runs_folder(), needs.disk)
    yield _room("Disk", f"up to {size_words(needs.disk)}", disk)


def _room(title: str, needed: str, look: Callable[[], None]) -> Check:
    try:
        look()
    except LlamaForgeError as error:
        return Check(title, "fail", error.message, error.hint)
    return Check(title, "pass", f"{needed} are needed, and are there.")


def _template(facts: Facts) -> Iterator[Check]:
    model = facts.report.get("model")
    if not model:
        return
    if model["template"] == "plain":
        yield Check(
            "Chat template",
            "warn",
            "The model's file has none, so question and answer follow each other directly.",
            "Give one if it was trained as a chat model: chat_template=chatml",
        )
    elif model["template"] != "file":
        yield Check("Chat template", "pass", f"That of {safe_line(model['template'])} is used.")
    else:
        yield Check("Chat template", "pass", "The model's own is used.")


def _server(spec: RunSpec) -> Check:
    from llamaforge.publishing.server import Limits, PublishingServer  # noqa: PLC0415
    from llamaforge.publishing.versions import require_adapters  # noqa: PLC0415

    limits = Limits(connect_seconds=2.0, answer_seconds=5.0, retry_pauses_seconds=())
    try:
        with PublishingServer(resolve_host(), limits) as server:
            version = server.version()
    except LlamaForgeError as error:
        return Check(
            "Ollama",
            "warn",
            f"{error.message} The run can be trained all the same, and published later.",
            error.hint,
        )
    try:
        require_adapters(version, spec.model.architecture)
    except LlamaForgeError:
        return Check(
            "Ollama",
            "pass",
            f"Version {safe_line(version.text)} takes no adapters: one merged file is published.",
        )
    return Check("Ollama", "pass", f"Version {safe_line(version.text)} takes the adapter.")
