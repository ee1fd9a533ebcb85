"""From a recipe to a run spec: every default written out, with the versions it was made with."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml

from llamaforge import __version__
from llamaforge.errors import UsageError
from llamaforge.hardware import cpu_has_fast_bfloat16
from llamaforge.recipe.documents import parse
from llamaforge.recipe.spec import (
    DataChoice,
    FurtherPart,
    Phase,
    Recipe,
    ResolvedBase,
    ResolvedModel,
    RunSpec,
    StartAdapter,
)
from llamaforge.recipe.spelling import meant_by_flag, model_in
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.safe_text import safe_line

DEFAULT_MAX_LENGTH: Final = 2048
_RECORDED_PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "gguf",
    "llama-cpp-python",
    "tokenizers",
    "numpy",
)


OF_ADAPTER: Final = (
    *("base", "use_peft", "load_in_4bit", "use_dora"),
    *("lora_r", "lora_alpha", "use_rslora", "target_modules"),
)
"""Settings that say what an adapter is, and over what."""
_FULL_LEARNING_RATE: Final = 2e-5
"""Where every weight is trained and no rate is given: a tenth of what adapters take."""
_TEXTS: Final = frozenset({"chat_template", "name", "snapshot", "map", "rendezvous", "interface"})
"""Settings that are text whatever they look like: a template is full of braces, and an id of frozen
rows may be all digits."""
_NOTHING: Final = frozenset({"null", "~", ""})


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
    full: ResolvedBase | None = None
    """The full-precision base, where that is trained on."""
    positions: int | None = None
    """Tokens that the full-precision base can take at most."""


def resolve(
    recipe: Recipe,
    facts: ModelFacts,
    run: str,
    *,
    start: tuple[StartAdapter, TrainingSettings] | None = None,
) -> RunSpec:
    """Return the run spec for `recipe` on the model of `facts`, under the run name `run`.

    Args:
        recipe: what to do.
        facts: the model that was found.
        run: the run's name.
        start: the adapter that training goes on from, and how it was trained.

    Raises:
        UsageError: a setting does not fit the model, the method, or the adapter before.
    """
    shape = None if start is None else (f"the run {start[0].run}", start[1])
    phases = []
    for number, asked in enumerate(recipe.phases, start=1):
        phase = _resolved(asked, facts, shape)
        if shape is None:
            shape = ("the first phase", phase.training)
        where = "" if number == 1 else f" of phase {number}"
        if (start is not None or recipe.then) and not phase.training.use_peft:
            raise UsageError(
                f"The training{where} has no adapter (use_peft: false), and only adapters can be "
                "gone on from.",
                "Leave use_peft out, or train in a run of its own.",
                code="no_adapter",
            )
        phases.append(phase)
    first, *then = phases
    return RunSpec(
        run=run,
        program={"llamaforge": __version__} | _versions(),
        model=ResolvedModel(
            name=recipe.model.name,
            chat_template=recipe.model.chat_template,
            base=recipe.model.base,
            full=facts.full,
            store=facts.store,
            blob=facts.blob,
            digest=facts.digest,
            further=facts.further,
            architecture=facts.architecture,
            quantization=facts.quantization,
            context_length=facts.context_length,
        ),
        start=start and start[0],
        data=first.data,
        training=first.training,
        then=then,
        evaluation=recipe.evaluation,
        launch=recipe.launch,
        publish=recipe.publish,
    )


def _resolved(phase: Phase, facts: ModelFacts, shape: tuple[str, TrainingSettings] | None) -> Phase:
    """Return a phase with nothing left open.

    Args:
        phase: as it was asked for.
        facts: the model.
        shape: whose adapter it goes on from, and how that was made; None for an untouched one.
    """
    ceiling = facts.context_length or facts.positions or DEFAULT_MAX_LENGTH
    ceiling = min(ceiling, facts.positions or ceiling)
    asked = phase.data.max_length
    if asked is not None and asked > ceiling:
        raise UsageError(
            f"max_length {asked:,} is more than the model's context of {ceiling:,} tokens.",
            f"Use at most: --set max_length={ceiling}",
            code="max_length",
        )
    data = DataChoice.model_validate(
        phase.data.model_dump()
        | {
            "max_length": asked or min(ceiling, DEFAULT_MAX_LENGTH),
            "sources": [source.absolute() for source in phase.data.sources],
        }
        | {"preference": _preference(phase)}
    )
    changes: dict[str, Any] = {"compute_dtype": _dtype(phase.training)}
    if not phase.training.use_peft and "learning_rate" not in phase.training.model_fields_set:
        changes["learning_rate"] = _FULL_LEARNING_RATE
    if shape is not None:
        changes |= _shape_of(phase.training, *shape)
    return Phase(data=data, training=phase.training.model_copy(update=changes))


def _shape_of(asked: TrainingSettings, whose: str, before: TrainingSettings) -> dict[str, Any]:
    """Return the settings that an adapter keeps for good, as they are in the one before.

    Raises:
        UsageError: one of them was asked for otherwise (`other_adapter`).
    """
    for key in OF_ADAPTER:
        wanted, there = getattr(asked, key), getattr(before, key)
        if key in asked.model_fields_set and wanted != there:
            raise UsageError(
                f"{key} cannot be {wanted}: the adapter of {whose} has {there}, and is gone on "
                "from.",
                f"Leave {key} out, or begin with a new adapter.",
                code="other_adapter",
            )
    return {key: getattr(before, key) for key in OF_ADAPTER}


def _preference(phase: Phase) -> str:
    """Return what becomes of pairs: methods that learn from them take both answers."""
    asked, method = phase.data.preference, phase.training.method
    if phase.training.learns_from_pairs:
        if asked == "chosen":
            raise UsageError(
                f"Method {method} learns from both answers of a pair, not from the better one.",
                f"Leave --preference out, or train with --method sft instead of {method}.",
                code="preference",
            )
        return "pairs"
    if phase.training.learns_from_labels:
        if asked == "chosen":
            raise UsageError(
                f"Method {method} learns from good and bad answers, not from the better one alone.",
                f"Leave --preference out, or train with --method sft instead of {method}.",
                code="preference",
            )
        return "labelled"
    if asked in {"pairs", "labelled"}:
        what, other = (
            ("pairs of answers", "dpo") if asked == "pairs" else ("labels of answers", "kto")
        )
        raise UsageError(
            f"Method {method} does not learn from {what}.",
            f"Train with --method {other}, or on the better answers with --preference chosen.",
            code="preference",
        )
    return asked


def _dtype(training: TrainingSettings) -> str:
    chosen = training.compute_dtype
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
            raise UsageError(
                f"There is no setting {safe_line(key, limit=60)!r}.",
                meant_by_flag(key.strip(), places),
                code="unknown_key",
            )
        section, name = place
        part = merged.setdefault(section, {})
        if part is None:
            part = merged[section] = {}
        if not isinstance(part, dict):
            continue  # told below
        is_text = name in _TEXTS and text not in _NOTHING
        part[name] = text if is_text else _value(key, text)
    return parse(Recipe, merged, "The recipe")


def _value(key: str, text: str) -> Any:
    """Return a flag's text as YAML reads it; `2e-4` is a number here, which YAML 1.1 denies."""
    try:
        value = yaml.safe_load(text)
    # A ValueError is a date that is none; the other one, lists in lists without end.
    except (yaml.YAMLError, ValueError, RecursionError):
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
    for section in ("training", "data", "evaluation", "launch", "model", "publish"):
        part = model_in(Recipe.model_fields[section].annotation)
        for name in part.model_fields if part else ():
            places.setdefault(name, (section, name))
            places[f"{section}.{name}"] = (section, name)
    return places
