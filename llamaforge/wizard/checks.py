"""What is looked at before anything is written, each as a line with a verdict and a way out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from llamaforge import hardware, paths
from llamaforge.catalog.host import resolve_host
from llamaforge.catalog.hub_base import local_base
from llamaforge.data.sources import parse_source
from llamaforge.errors import LlamaForgeError, UsageError
from llamaforge.gguf.header import Header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.preflight import (
    Needs,
    check_disk,
    check_memory,
    check_trackers,
    check_way,
    needs_of,
)
from llamaforge.recipe.resolve import resolve
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import check_run_name
from llamaforge.safe_text import safe_line
from llamaforge.wizard.beginning import facts_of
from llamaforge.wizard.continuing import earlier_adapter
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.questions import advice_for
from llamaforge.words import size_words

Verdict = Literal["pass", "warn", "fail"]
_RUN: Final = "wizard"
_LOWER_RANKS: Final = (8, 4)


@dataclass(frozen=True)
class Fix:
    """A way out that is taken with one key."""

    title: str
    """What it does, as one would say it on a button."""
    answers: Mapping[str, Any]
    """What changes in the draft."""
    fetches: str = ""
    """The repository that is downloaded instead."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    title: str
    verdict: Verdict
    message: str
    hint: str = ""
    """What to do about it; empty where nothing is."""
    fix: Fix | None = None


def checks(draft: Draft, facts: Facts) -> list[Check]:
    """Return what stands for and against beginning the run of a draft."""
    found = [*_rows(draft, facts), _network(draft, facts)]
    try:
        spec = spec_of(draft, facts)
        header = read_model(spec.model.blob, spec.model.files)
    except LlamaForgeError as error:
        if not any(item.verdict == "fail" for item in found):
            fix = _fitting(draft, facts) if isinstance(error, UsageError) else None
            found.append(Check("Recipe", "fail", error.message, error.hint, fix))
        return found
    found += _machine(draft, facts, spec, header)
    found += _template(draft, facts)
    found.append(_result(draft, spec, header))
    if spec.training.report_to:
        found.append(_trackers(draft, spec))
    if draft.publish:
        found.append(_server(spec))
    return found


def _fitting(draft: Draft, facts: Facts) -> Fix | None:
    """Return the way out of settings that do not go together; None where they do."""
    fit, left_out = draft.fitting(advice_for(draft, facts))
    names = ", ".join(safe_line(text, limit=60) for text in left_out)
    return Fix(f"Leave out {names}", {"settings": fit.settings}) if left_out else None


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
    base = None
    if draft.trains_on_base:
        repo = draft.full_base if draft.base == "other" else facts.base and facts.base.repo
        base = local_base(repo or "")
    recipe, found = draft.recipe(advice_for(draft, facts)), facts_of(model, base)
    start = None
    if recipe.continue_from is not None:
        before = earlier_adapter(recipe.continue_from, found)
        start = (before.start, before.training)
    return resolve(recipe, found, name, start=start)


def _changed(draft: Draft, title: str, **settings: str) -> Fix:
    """Return the fix that changes settings."""
    return Fix(title, {"settings": dict(draft.settings) | settings})


def _rows(draft: Draft, facts: Facts) -> Iterator[Check]:
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
    for verdict, items in (("fail", stops), ("warn", warnings)):
        for item in items:
            message = safe_line(item["message"], limit=300)
            fix = _fix_of_rows(item["code"], draft, facts)
            yield Check("Rows", "fail" if verdict == "fail" else "warn", message, fix=fix)


def _fix_of_rows(code: str, draft: Draft, facts: Facts) -> Fix | None:
    if code == "secrets" and not draft.allow_secrets:
        return Fix("Train on them all the same", {"allow_secrets": True})
    if code == "rejected_rows":
        return _changed(draft, "Leave those rows out", max_rejected_fraction="1")
    longest = facts.rows.suggested_max_length
    if code in {"lengths", "truncated_answers"} and longest:
        return _changed(draft, f"Allow {longest:,} tokens a row", max_length=str(longest))
    return None


def _network(draft: Draft, facts: Facts) -> Check:
    """Return whether everything that the run needs is on this machine."""
    base = facts.base
    if draft.trains_on_base and base is not None and base.must_fetch:
        size = base.cache.missing_bytes
        words = f" ({size_words(size)} to fetch)" if size else ""
        there = "complete on this machine" if base.cache.bytes else "on this machine yet"
        return Check(
            "Weights",
            "fail",
            f"{safe_line(base.repo)} is not {there}{words}.",
            "Download it, or train on the model's own file.",
            Fix("Download it", {}, fetches=base.repo),
        )
    hub = [text for text in draft.sources if parse_source(text).is_on_the_hub]
    if hub and "rows" in facts.report:  # looking through them has fetched them
        name = safe_line(hub[0], limit=80)
        return Check(
            "Offline",
            "pass",
            f"{name} was fetched; the Hub is only asked whether it has changed since.",
        )
    if hub:
        return Check(
            "Offline",
            "warn",
            f"{safe_line(hub[0], limit=80)} is fetched from the Hub when the run begins.",
            "Stay online until then.",
        )
    return Check("Offline", "pass", "All that the run needs is on this machine.")


def _machine(draft: Draft, facts: Facts, spec: RunSpec, header: Header) -> Iterator[Check]:
    needs = needs_of(spec, header)
    free = hardware.free_disk_bytes(paths.runs_folder())

    def fits(item: Needs) -> bool:
        try:
            check_memory(item)
        except LlamaForgeError:
            return False
        return item.disk <= free

    look = partial(check_memory, needs)
    fix = partial(_smaller, draft, facts, spec, header, fits)
    yield _room("Memory", f"At least {size_words(needs.memory)}", look, fix)
    disk = partial(check_disk, paths.runs_folder(), needs.disk)
    yield _room("Disk", f"Up to {size_words(needs.disk)}", disk, fix)


def _smaller(
    draft: Draft, facts: Facts, spec: RunSpec, header: Header, fits: Callable[[Needs], bool]
) -> Fix | None:
    """Return the smallest change with which the run fits; None where none does."""
    found = [
        _changed(draft, f"Take rank {rank}", lora_r=str(rank), lora_alpha=str(2 * rank))
        for rank in _LOWER_RANKS
        if rank < spec.training.lora_r
    ]
    if draft.publish:
        found.append(Fix("Publish it later", {"publish": ""}))
    if draft.trains_on_base:
        found.append(Fix("Train on the model's own file", {"base": "gguf"}))
    for fix in found:
        try:
            if fits(needs_of(spec_of(replace(draft, **fix.answers), facts), header)):
                return fix
        except LlamaForgeError:
            continue
    return None


def _room(
    title: str, needed: str, look: Callable[[], None], fix: Callable[[], Fix | None]
) -> Check:
    try:
        look()
    except LlamaForgeError as error:
        return Check(title, "fail", error.message, error.hint, fix())
    return Check(title, "pass", f"{needed} are needed, and are there.")


def _template(draft: Draft, facts: Facts) -> Iterator[Check]:
    model = facts.report.get("model")
    if not model:
        return
    if model["template"] == "plain":
        yield Check(
            "Chat template",
            "warn",
            "The model's file has none, so question and answer follow each other directly.",
            "Give one if it was trained as a chat model.",
            _changed(draft, "Write rows as ChatML", chat_template="chatml"),
        )
    elif model["template"] != "file":
        yield Check("Chat template", "pass", f"That of {safe_line(model['template'])} is used.")
    else:
        yield Check("Chat template", "pass", "The model's own is used.")


def _result(draft: Draft, spec: RunSpec, header: Header) -> Check:
    """Return whether what is learned can be written as a file that llama.cpp reads."""
    try:
        check_way(spec, header)
    except LlamaForgeError as error:
        fix = {
            "no_bitsandbytes": _changed(draft, "Hold them unpacked", load_in_4bit="false"),
            "cannot_pack": _changed(draft, "Pack it as Q4_K_M", quantization="Q4_K_M"),
        }.get(error.code)
        return Check("Converter", "fail", error.message, error.hint, fix)
    what = "an adapter" if spec.training.makes_adapter else "one merged file"
    return Check(
        "Converter", "pass", f"The result is {what}; this program writes it, none else is needed."
    )


def _trackers(draft: Draft, spec: RunSpec) -> Check:
    try:
        check_trackers(spec)
    except LlamaForgeError as error:
        fix = _changed(draft, "Leave it out", report_to="[]")
        return Check("Trackers", "fail", error.message, error.hint, fix)
    names = ", ".join(spec.training.report_to)
    return Check("Trackers", "pass", f"{names} can be reached from here.")


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
            Fix("Publish it later", {"publish": ""}),
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
