"""Which settings suit a goal, some rows and a model; each number comes with its reason."""

import math
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.words import plural

_STEP_ROWS: Final = 16
_FEW_ROWS: Final = 200
_QUICK_STEPS: Final = 60
_LONG_ROW: Final = 1024
"""Tokens from which rows pass through the model one at a time."""


@dataclass(frozen=True)
class Goal:
    """What a person wants of the model."""

    key: str
    title: str
    explanation: str
    lora_r: int
    """Rank of the adapter that usually suffices."""


@dataclass(frozen=True)
class Preset:
    """How much time a person gives it."""

    key: str
    title: str
    explanation: str
    rank_factor: float
    epochs_factor: float


@dataclass(frozen=True)
class Rows:
    """What the advice needs to know of the rows."""

    count: int
    """Rows to train on."""
    p50: int = 0
    """Tokens of a row in the middle; 0 where they were not counted."""
    suggested_max_length: int = 0
    """Tokens; 0 where they were not counted."""
    good: int = 0
    """Answers among them that are labelled good by themselves."""
    bad: int = 0
    """Answers that are labelled bad."""

    @property
    def are_labelled(self) -> bool:
        """Whether they are answers with labels."""
        return self.good + self.bad > 0


@dataclass(frozen=True)
class Advice:
    """One setting of the recipe and why it has this value."""

    section: str
    key: str
    value: Any
    reason: str


PREFER: Final = "prefer"
"""The goal that learns from pairs of answers, or from labelled ones."""
_EVEN: Final = 4 / 3
"""Good answers may weigh as much more than bad ones. Source: section 4.2 of the KTO paper."""
GOALS: Final = (
    Goal(
        "style",
        "Teach a style or a task",
        "The model answers in your words, your format or your tone.",
        16,
    ),
    Goal(
        "extract",
        "Classify or extract",
        "Short, strict answers: a label, a grade, some fields. Little has to be learned.",
        8,
    ),
    Goal(
        "domain",
        "Answer from your own texts",
        "The model takes on facts and terms. It needs many rows, and may still mix facts up.",
        32,
    ),
    Goal(
        "prefer",
        "Prefer some answers over others",
        "Learns from pairs of a better and a worse answer (DPO).",
        16,
    ),
    Goal(
        "prompt",
        "No training",
        "A system text and some of your rows as examples, in seconds. Try this first if you have "
        "fewer than about fifty rows.",
        0,
    ),
)
PRESETS: Final = (
    Preset("quick", "Quick look", "Some minutes, to see whether it works at all.", 0.5, 0.34),
    Preset("balanced", "Balanced", "What usually gives a good result.", 1.0, 1.0),
    Preset("thorough", "Thorough", "Twice the rank and more passes, for a night.", 2.0, 1.67),
)


def goal_of(key: str) -> Goal:
    """Return the goal called `key`; raises `KeyError` where there is none."""
    return {goal.key: goal for goal in GOALS}[key]


def preset_of(key: str) -> Preset:
    """Return the preset called `key`; raises `KeyError` where there is none."""
    return {preset.key: preset for preset in PRESETS}[key]


def advise(goal: Goal, preset: Preset, rows: Rows) -> tuple[Advice, ...]:
    """Return the settings that suit, in the order in which a person would ask for them."""
    if goal.key == PREFER:
        return (
            _of_labels(goal, preset, rows) if rows.are_labelled else _of_pairs(goal, preset, rows)
        )
    rank = max(4, round(goal.lora_r * preset.rank_factor))
    epochs, why_epochs = _epochs(preset, rows)
    batch, accumulation, why_batch = _batch(rows)
    rate, why_rate = _rate(preset, rows)
    found = [
        Advice("training", "lora_r", rank, f"{goal.title.lower()}: rank {goal.lora_r} usually"
               f" suffices{_times(preset)}"),
        Advice("training", "lora_alpha", float(2 * rank), "twice the rank, so that the rate fits"),
        Advice("training", "learning_rate", rate, why_rate),
        Advice("training", "num_train_epochs", epochs, why_epochs),
        Advice("training", "per_device_train_batch_size", batch, why_batch),
        Advice("training", "gradient_accumulation_steps", accumulation,
               f"{plural(batch * accumulation, 'row')} a step, which keeps steps steady"),
    ]  # fmt: skip
    if rows.suggested_max_length:
        found.append(
            Advice(
                "data",
                "max_length",
                rows.suggested_max_length,
                "holds your rows without paying for longer ones",
            )
        )
    steps = math.ceil(rows.count * epochs / (batch * accumulation))
    if preset.key == "quick" and steps > _QUICK_STEPS:
        found.append(
            Advice("training", "max_steps", _QUICK_STEPS, "a look, not a whole pass over the rows")
        )
    return tuple(found)


def _of_pairs(goal: Goal, preset: Preset, rows: Rows) -> tuple[Advice, ...]:
    rank = max(4, round(goal.lora_r * preset.rank_factor))
    batch, accumulation, _ = _batch(rows)
    batch, accumulation = max(1, batch // 2), accumulation * min(2, batch)
    epochs = 2.0 if preset.key == "thorough" else 1.0
    found = [
        Advice("training", "method", "dpo", "learns from a better and a worse answer"),
        Advice("training", "beta", 0.1, "how far it may move away from what it says now"),
        Advice("training", "lora_r", rank, f"rank {goal.lora_r} usually suffices{_times(preset)}"),
        Advice("training", "lora_alpha", float(2 * rank), "twice the rank, so that the rate fits"),
        Advice("training", "learning_rate", 2e-5, "a tenth of the usual rate, or answers decay"),
        Advice("training", "num_train_epochs", epochs,
               "pairs are read once" if epochs == 1 else "pairs are read twice to be thorough"),
        Advice("training", "per_device_train_batch_size", batch,
               "half as many at a time: each pair is two rows"),
        Advice("training", "gradient_accumulation_steps", accumulation,
               f"{plural(batch * accumulation, 'pair')} a step, which keeps steps steady"),
    ]  # fmt: skip
    steps = math.ceil(rows.count * epochs / (batch * accumulation))
    if preset.key == "quick" and steps > _QUICK_STEPS:
        why = "a look, not a whole pass over the pairs"
        found.append(Advice("training", "max_steps", _QUICK_STEPS, why))
    return tuple(found)


def _of_labels(goal: Goal, preset: Preset, rows: Rows) -> tuple[Advice, ...]:
    rank = max(4, round(goal.lora_r * preset.rank_factor))
    batch, accumulation, why_batch = _batch(rows)
    epochs = 2.0 if preset.key == "thorough" else 1.0
    found = [
        Advice("training", "method", "kto", "learns from answers that are labelled good or bad"),
        Advice("training", "beta", 0.1, "how far it may move away from what it says now"),
        Advice("training", "lora_r", rank, f"rank {goal.lora_r} usually suffices{_times(preset)}"),
        Advice("training", "lora_alpha", float(2 * rank), "twice the rank, so that the rate fits"),
        Advice("training", "learning_rate", 2e-5, "a tenth of the usual rate, or answers decay"),
        Advice("training", "num_train_epochs", epochs,
               "rows are read once" if epochs == 1 else "rows are read twice to be thorough"),
        Advice("training", "per_device_train_batch_size", batch, why_batch),
        Advice("training", "gradient_accumulation_steps", accumulation,
               f"{plural(batch * accumulation, 'row')} a step, which keeps steps steady"),
    ]  # fmt: skip
    if rows.good and rows.bad:
        if rows.good > _EVEN * rows.bad:
            weight = round(rows.good / rows.bad, 2)
            why = f"there are {rows.good:,} good and {rows.bad:,} bad answers"
            found.append(Advice("training", "undesirable_weight", weight, why))
        elif rows.bad > rows.good:
            weight = round(rows.bad / rows.good, 2)
            why = f"there are {rows.bad:,} bad and {rows.good:,} good answers"
            found.append(Advice("training", "desirable_weight", weight, why))
    steps = math.ceil(rows.count * epochs / (batch * accumulation))
    if preset.key == "quick" and steps > _QUICK_STEPS:
        why = "a look, not a whole pass over the rows"
        found.append(Advice("training", "max_steps", _QUICK_STEPS, why))
    return tuple(found)


def _times(preset: Preset) -> str:
    if preset.rank_factor == 1.0:
        return ""
    return ", half of it for a look" if preset.rank_factor < 1 else ", twice that to be thorough"


def _epochs(preset: Preset, rows: Rows) -> tuple[float, str]:
    if rows.count < 2_000:
        usual, why = 3, "few rows are read three times"
    elif rows.count < 10_000:
        usual, why = 2, "some thousand rows are read twice"
    else:
        usual, why = 1, "so many rows are read once"
    epochs = max(1, round(usual * preset.epochs_factor))
    if epochs != usual:
        why += f", here {epochs} times" if epochs > 1 else ", here once"
    return float(epochs), why


def _batch(rows: Rows) -> tuple[int, int, str]:
    target = _STEP_ROWS if rows.count >= _FEW_ROWS else _STEP_ROWS // 2
    if rows.p50 >= _LONG_ROW:
        return 1, target, "long rows pass through one at a time to save memory"
    batch = 4 if rows.p50 >= _LONG_ROW // 4 else 8
    return batch, max(1, target // batch), "as many at a time as rows of this length allow"


def _rate(preset: Preset, rows: Rows) -> tuple[float, str]:
    if preset.key == "thorough":
        return 1e-4, "half the usual rate over more passes"
    if rows.count < _FEW_ROWS:
        return 1e-4, "few rows: half the usual rate, or it would learn them by heart"
    return 2e-4, "the usual rate of adapters"
