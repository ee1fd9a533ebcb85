"""A run's recipe once more: from its spec to a draft whose answers can be changed."""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from llamaforge.data import library
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import DataChoice, EvaluationSettings, RunSpec, TrainingSettings
from llamaforge.wizard.draft import Draft

_OF_THE_MACHINE: Final = frozenset(
    {"device", "compute_dtype", "gradient_checkpointing", "per_device_eval_batch_size"}
)
"""What is found out anew: the machine, or what else it does, may be another by now."""
_ANSWERED: Final = frozenset({"sources", "map", "preference", "allow_secrets", "max_length"})
"""What the draft has places of its own for, and what the rows decide again."""


_ADVISED: Final = frozenset(
    {
        "lora_r", "lora_alpha", "learning_rate", "num_train_epochs",
        "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
    }
)  # fmt: skip
"""What the wizard would advise otherwise: these are kept though they are as usual."""


@dataclass(frozen=True)
class Reused:
    """A draft, and what of the run it cannot hold."""

    draft: Draft
    left_out: tuple[str, ...] = ()
    """Each in words that fit into: `… is left out`."""


def reused(spec: RunSpec) -> Reused:
    """Return the answers that make the same recipe; name and published name stay open."""
    settings: dict[str, str] = {}
    usual = DataChoice(sources=spec.data.sources or [{"path": "-"}])
    settings |= _changed("data", spec.data, usual, _ANSWERED | {"snapshot"})
    settings |= _changed(
        "training",
        spec.training,
        TrainingSettings(method=spec.training.method),
        _OF_THE_MACHINE | {"report_to"},
    )
    settings |= _changed("evaluation", spec.evaluation, EvaluationSettings(), frozenset())
    left_out = []
    if spec.then:
        left_out.append("each further phase of training")
    if spec.start is not None:
        left_out.append(f"that it went on from the run {spec.start.run}")
    frozen = ""
    if spec.data.snapshot:
        try:
            frozen = f"{library.PREFIX}{library.find(spec.data.snapshot).short_id}"
        except LlamaForgeError:
            left_out.append("its frozen rows, which are gone")
    if any(source.split or source.format or source.mapping for source in spec.data.sources):
        left_out.append("what was said of single sources")
    draft = Draft(
        model=spec.model.name,
        store=str(spec.model.store),
        sources=(frozen,) if frozen else tuple(source.text() for source in spec.data.sources),
        map=spec.data.map or "",
        preference=spec.data.preference,
        allow_secrets=spec.data.allow_secrets,
        settings=settings,
    )
    return Reused(draft, tuple(left_out))


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


def _changed(
    section: str, chosen: BaseModel, usual: BaseModel, without: frozenset[str]
) -> dict[str, str]:
    """Return what is not as usual, or would be advised otherwise, as `--set` takes it."""
    given, default = chosen.model_dump(mode="json"), usual.model_dump(mode="json")
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in given.items()
        if key not in without and (value != default[key] or key in _ADVISED)
    }
