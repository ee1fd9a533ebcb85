"""What a run takes as passes of the model on this machine show: memory and time, as checks."""

from collections.abc import Callable

from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.checks import Check, Fix, spec_of
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.planning import DOING, Plan, plan_of
from llamaforge.words import duration_words, size_words

_CUT = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
_SHOWN_CHECKS = frozenset({"no_disk_space", "rows_left_out", "hub_rows"})
"""Problems of a plan that the other checks tell of."""


def measured_checks(draft: Draft, facts: Facts, on_progress: Callable[[str], None]) -> list[Check]:
    """Return what some passes of the model show; it takes some ten seconds.

    Args:
        draft: with every answer.
        facts: as the other checks take them.
        on_progress: takes what is being done, in words.
    """
    try:
        plan = plan_of(spec_of(draft, facts), lambda what: on_progress(DOING.get(what, what)))
    except LlamaForgeError as error:
        return [Check("Time", "warn", f"It cannot be told: {error.message}", error.hint)]
    return checks_of(plan, draft)


def checks_of(plan: Plan, draft: Draft) -> list[Check]:
    """Return what a plan says, as checks."""
    found = [_problem(plan, draft, item) for item in plan.problems
             if item["code"] not in _SHOWN_CHECKS]  # fmt: skip
    if not any(item.verdict == "fail" for item in found):
        found.append(Check("Memory", "pass", _memory_words(plan)))
    if plan.seconds is not None:
        low, high = map(duration_words, plan.seconds)
        found.append(Check("Time", "pass", f"The whole run takes {low} to {high}."))
    return found


def _memory_words(plan: Plan) -> str:
    used, have = size_words(plan.memory_bytes), size_words(plan.available_bytes)
    each = f" in each of {plan.processes} processes" * (plan.processes > 1)
    parts = (f"{words} {size_words(size)}" for words, size in plan.memory_by_part.items())
    return f"At most {used} of {have} are taken{each}: {', '.join(parts)}."


def _problem(plan: Plan, draft: Draft, item: dict[str, str]) -> Check:
    fix = None
    settings = dict(draft.settings)
    if item["code"] == "fitted_to_memory":
        chosen = plan.body["settings"]
        changes = {key: str(chosen[key]).lower() for key in _CUT}
        fix = Fix("Write it into the recipe", {"settings": settings | changes})
    elif item["code"] == "no_memory" and plan.body["largest"]["max_length"]:
        length = int(plan.body["largest"]["max_length"])
        answers = {"settings": settings | {"max_length": str(length)}}
        fix = Fix(f"Allow {length:,} tokens a row", answers)
    return Check(
        "Memory" if "memory" in item["code"] else "Run",
        "fail" if item["level"] == "stop" else "warn",
        safe_line(item["message"], limit=300),
        safe_line(item["fix"], limit=300),
        fix,
    )
