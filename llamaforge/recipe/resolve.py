"""From a recipe to a run spec: every default written out, with the versions it was made with."""

import difflib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml

from llamaforge import __version__
from llamaforge.errors import UsageError
from llamaforge.hardware import cpu_has_fast_bfloat16
from llamaforge.recipe.spec import (
    DataChoice,
    FurtherPart,
    Recipe,
    ResolvedModel,
    RunSpec,
    known_keys,
    parse,
)
from llamaforge.safe_text import safe_line

DEFAULT_MAX_LENGTH: Final = 2048
_RECORDED_PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "gguf",
    "llama-cpp-python",
    "tokenizers",
    "numpy",
)


_TEXTS: Final = frozenset({"chat_template", "name"})
"""Settings that are text whatever they look like: a template is full of braces."""


@dataclass(frozen=True)
class ModelFacts:
    """What the catalogue found out about the chosen model."""

    store: Path
    blob: Path
    digest: str
    architecture: str
    quantization: str
    context_length: int
    further: tuple[FurtherPart, ...] = ()


def resolve(recipe: Recipe, facts: ModelFacts, run: str) -> RunSpec:
    """Return the run spec for `recipe` on the model of `facts`, under the run name `run`."""
    ceiling = facts.context_length or DEFAULT_MAX_LENGTH
    asked = recipe.data.max_length
    if asked is not None and asked > ceiling:
        raise UsageError(
            f"max_length {asked:,} is more than the model's context of {ceiling:,} tokens.",
            f"Use at most: --set max_length={ceiling}",
            code="max_length",
        )
    data = DataChoice.model_validate(
        recipe.data.model_dump()
        | {
            "max_length": asked or min(ceiling, DEFAULT_MAX_LENGTH),
            "sources": [source.absolute() for source in recipe.data.sources],
        }
    )
    training = recipe.training.model_copy(update={"compute_dtype": _dtype(recipe)})
    return RunSpec(
        run=run,
        program={"llamaforge": __version__} | _versions(),
        model=ResolvedModel(
            name=recipe.model.name,
            chat_template=recipe.model.chat_template,
            store=facts.store,
            blob=facts.blob,
            digest=facts.digest,
            further=facts.further,
            architecture=facts.architecture,
            quantization=facts.quantization,
            context_length=facts.context_length,
        ),
        data=data,
        training=training,
        evaluation=recipe.evaluation,
        publish=recipe.publish,
    )


def _dtype(recipe: Recipe) -> str:
    chosen = recipe.training.compute_dtype
    if chosen != "auto":
        return chosen
    return "bfloat16" if cpu_has_fast_bfloat16() else "float32"


def _versions() -> dict[str, str]:
    found = {}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def with_settings(body: dict[str, Any], settings: list[str]) -> Recipe:
    """Return the recipe `body` with `KEY=VALUE` settings laid over it.

    A key is a setting's own name (`learning_rate`) or its full path (`training.learning_rate`).

    Raises:
        UsageError: a setting has no `=`, an unknown key or a value out of bounds.
    """
    merged = {key: dict(part) if isinstance(part, dict) else part for key, part in body.items()}
    places = _places()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(
                f"--set {safe_line(setting, limit=60)} has no value.",
                "Write --set KEY=VALUE.",
                code="bad_setting",
            )
        place = places.get(key.strip())
        if place is None:
            near = difflib.get_close_matches(key.strip(), places, n=1)
            hint = (
                f"Did you mean {near[0]}?"
                if near
                else f"Known settings: {', '.join(key for key in places if '.' not in key)}."
            )
            raise UsageError(
                f"There is no setting {safe_line(key, limit=60)!r}.", hint, code="unknown_key"
            )
        section, name = place
        merged.setdefault(section, {})[name] = text if name in _TEXTS else _value(key, text)
    return parse(Recipe, merged, "The recipe")


def _value(key: str, text: str) -> Any:
    """Return a flag's text as YAML reads it; `2e-4` is a number here, which YAML 1.1 denies."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(
            f"The value of --set {safe_line(key, limit=60)} cannot be read: "
            f"{safe_line(text, limit=60)}.",
            "Write a number, a word, true, false, null or a list such as [a, b].",
            code="bad_setting",
        ) from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _places() -> dict[str, tuple[str, str]]:
    """Return where each settable key lives: by its own name and by its full path."""
    places: dict[str, tuple[str, str]] = {}
    for section in ("training", "data", "evaluation", "model", "publish"):
        for name in known_keys(Recipe.model_fields[section].annotation):  # type: ignore[arg-type]
            places.setdefault(name, (section, name))
            places[f"{section}.{name}"] = (section, name)
    return places
