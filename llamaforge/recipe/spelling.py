"""Which setting is meant by a key that a recipe does not have."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel

_ELSEWHERE: Final = {
    "alpha": "lora_alpha",
    "batch_size": "per_device_train_batch_size",
    "bf16": "compute_dtype",
    "cutoff_len": "max_length",
    "dropout": "lora_dropout",
    "dtype": "compute_dtype",
    "epochs": "num_train_epochs",
    "fp16": "compute_dtype",
    "grad_accum": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "optimizer": "optim",
    "r": "lora_r",
    "rank": "lora_r",
    "scheduler": "lr_scheduler_type",
    "steps": "max_steps",
}
"""What a setting is called in other programs, where that is too far from its name here."""


_NEVER: Final = {
    "trust_remote_code": "Code of a repository is never run; leave it out.",
}
"""What no setting will ever do, and why."""


def nearest(key: str, names: Collection[str]) -> str | None:
    """Return the one of `names` that `key` was most likely meant to be; None if none is near."""
    usual = _ELSEWHERE.get(key.lower())
    if usual in names:
        return usual
    near = difflib.get_close_matches(key, names, n=1)
    return near[0] if near else None


def meant(kind: type[BaseModel], place: Sequence[str | int]) -> str:
    """Return a sentence about the unknown key at `place`: which setting of `kind` was meant.

    Settings of the same part come first; those of other parts are named with theirs.
    """
    key = str(place[-1])
    if key in _NEVER:
        return _NEVER[key]
    part = _part_at(kind, place[:-1])
    near = nearest(key, part.model_fields) if part else None
    if near:
        return f"Did you mean {near}?"
    places = settings_of(kind)
    if key in places:
        return f"It belongs elsewhere: {places[key]}."
    near = nearest(key, places)
    return f"Did you mean {places[near]}?" if near else "Remove it, or check its spelling."


def meant_by_flag(key: str, names: Collection[str]) -> str:
    """Return a sentence about `--set KEY=…` of a key that is none of `names`."""
    never = _NEVER.get(key.rpartition(".")[2])
    near = None if never else nearest(key, names)
    return never or (
        f"Did you mean {near}?"
        if near
        else "See all settings with: llamaforge train RECIPE --dry-run"
    )


def settings_of(kind: type[BaseModel]) -> dict[str, str]:
    """Return every setting of `kind` and of its parts: its own name, and its name with the part's.

    Of two with one name the first counts.
    """
    found: dict[str, str] = {name: name for name in kind.model_fields}
    for name, info in kind.model_fields.items():
        part = model_in(info.annotation)
        for inner, whole in settings_of(part).items() if part else ():
            found.setdefault(inner, f"{name}.{whole}")
    return found


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, alone, in a list or left out; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def _part_at(kind: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel] | None:
    part: type[BaseModel] | None = kind
    for step in place:
        if isinstance(step, int):
            continue
        info = part.model_fields.get(step) if part else None
        part = model_in(info.annotation) if info else None
    return part
