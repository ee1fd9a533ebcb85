"""A run's recipe once more: from its spec to a draft whose answers can be changed."""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from llamaforge.data import library
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.resolve import OF_ADAPTER
from llamaforge.recipe.spec import (
    DataChoice,
    EvaluationSettings,
    Phase,
    PublishChoice,
    RunSpec,
)
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs.directory import open_run
from llamaforge.wizard.draft import Draft

_OF_THE_MACHINE: Final = frozenset(
    {"device", "compute_dtype", "gradient_checkpointing", "per_device_eval_batch_size"}
)
"""What is found out anew: the machine, or what else it does, may be another by now."""
_ANSWERED: Final = frozenset(
    {"sources", "map", "preference", "allow_secrets", "max_length", "validation_fraction"}
)
"""What the draft has places of its own for, and what the rows decide again."""


_ADVISED: Final = frozenset(
    {
        "lora_r", "lora_alpha", "learning_rate", "num_train_epochs",
        "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
    }
)  # fmt: skip
"""What the wizard would advise otherwise: these are kept though they are as usual."""
_ADVISED_OF_LABELS: Final = frozenset({"desirable_weight", "undesirable_weight"})


@dataclass(frozen=True)
class Reused:
    """A draft, and what of the run it cannot hold."""

    draft: Draft
    left_out: tuple[str, ...] = ()
    """Each in words that fit into: `… is left out`."""


def reused(spec: RunSpec) -> Reused:
    """Return the answers that make the same recipe; name and published name stay open."""
    left_out: list[str] = []
    frozen = _frozen(spec.data, left_out)
    data, model = spec.data, spec.model
    usual = DataChoice(sources=data.sources or [{"path": "-"}])
    settings = _named("data", _changed(data, usual, _ANSWERED | {"snapshot"}))
    if spec.training.method != "sft":  # rows alone do not tell which of the others it was
        settings["training.method"] = spec.training.method
    settings |= _named("training", _training(spec.training, _OF_THE_MACHINE | {"base"}))
    evaluation = _changed(spec.evaluation, EvaluationSettings(), frozenset({"probe_prompts"}))
    settings |= _named("evaluation", evaluation)
    settings |= _named("launch", _changed(spec.launch, LaunchSettings(), frozenset()))
    settings |= _named("publish", _changed(spec.publish, PublishChoice(), frozenset({"name"})))
    if model.chat_template is not None:
        settings["model.chat_template"] = model.chat_template
    on_base = "other" if model.base else "hub"
    said = {
        source.text(): source.model_dump(mode="json", exclude_defaults=True)
        for source in data.sources
        if source.split or source.format or source.mapping
    }
    then = [_phase(phase, number, left_out) for number, phase in enumerate(spec.then, start=2)]
    phases = [phase for phase in then if phase is not None]
    draft = Draft(
        model=model.name,
        store=str(model.store),
        base=on_base if spec.training.base == "hub" else "gguf",
        full_base=model.base or "",
        sources=(frozen,) if frozen else tuple(source.text() for source in data.sources),
        said_of_sources=json.dumps(said, ensure_ascii=False) if said else "",
        map=data.map or "",
        preference=data.preference,
        allow_secrets=data.allow_secrets,
        held_out="" if data.snapshot else f"{data.validation_fraction:g}",
        settings=settings,
        probes=tuple(spec.evaluation.probe_prompts),
        continue_from=_earlier(spec, left_out),
        then=json.dumps(phases, ensure_ascii=False) if phases else "",
    )
    return Reused(draft, tuple(left_out))


def _frozen(data: DataChoice, left_out: list[str]) -> str:
    """Return frozen rows as they are typed; empty where there are none any more."""
    if not data.snapshot:
        return ""
    try:
        return f"{library.PREFIX}{library.find(data.snapshot).short_id}"
    except LlamaForgeError:
        left_out.append("its frozen rows, which are gone")
        return ""


def _earlier(spec: RunSpec, left_out: list[str]) -> str:
    """Return the run that was gone on from, if it is still there."""
    if spec.start is None:
        return ""
    try:
        return open_run(spec.start.run).id
    except LlamaForgeError:
        left_out.append(f"that it went on from the run {spec.start.run}, which is gone")
        return ""


def _phase(phase: Phase, number: int, left_out: list[str]) -> dict[str, Any] | None:
    """Return a further phase as a recipe has it; None where its frozen rows are gone."""
    gone: list[str] = []
    _frozen(phase.data, gone)
    if gone:
        left_out.append(f"phase {number}, whose frozen rows are gone")
        return None
    return {
        "data": phase.data.model_dump(mode="json", exclude_defaults=True),
        # The adapter is that of the first phase, whatever becomes of that.
        "training": {"method": phase.training.method}
        | _training(phase.training, _OF_THE_MACHINE | frozenset(OF_ADAPTER)),
    }


def differences(specs: list[RunSpec]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each setting in which recipes differ, with its value in each of them as text."""
    flat = [_flat(spec.model_dump(mode="json", exclude=_NOT_COMPARED)) for spec in specs]
    keys = sorted(set().union(*flat))
    rows = []
    for key in keys:
        values = tuple(body.get(key, "–") for body in flat)
        if len(set(values)) > 1:
            rows.append((key, values))
    return rows


_NOT_COMPARED: Final = {"run": True, "created": True, "version": True}


def _flat(body: Any, path: str = "") -> dict[str, str]:
    if isinstance(body, dict) and body:
        found: dict[str, str] = {}
        for key, value in body.items():
            found |= _flat(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)}


def _training(chosen: TrainingSettings, without: frozenset[str]) -> dict[str, Any]:
    usual = TrainingSettings(method=chosen.method)
    advised = _ADVISED | (_ADVISED_OF_LABELS if chosen.learns_from_labels else frozenset())
    return _changed(chosen, usual, without | {"report_to"}, advised)


def _changed(
    chosen: BaseModel,
    usual: BaseModel,
    without: frozenset[str],
    advised: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return what is not as usual, or would be advised otherwise."""
    given, default = chosen.model_dump(mode="json"), usual.model_dump(mode="json")
    return {
        key: value
        for key, value in given.items()
        if key not in without and (value != default[key] or key in advised)
    }


def _named(section: str, values: dict[str, Any]) -> dict[str, str]:
    """Return settings as `--set` takes them."""
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
    }
