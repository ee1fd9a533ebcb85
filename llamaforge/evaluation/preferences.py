"""Which answers base and tuned model hold for likelier, in llama.cpp, on held-out rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llamaforge.evaluation.pair import Served


@dataclass(frozen=True, slots=True)
class AnswerIds:
    """A prompt with an answer, as tokens."""

    ids: Sequence[int]
    trained: Sequence[bool]
    """For each id, whether it belongs to the answer."""


@dataclass(frozen=True, slots=True)
class PairIds:
    """One prompt with its better and its worse answer."""

    chosen: AnswerIds
    rejected: AnswerIds


@dataclass(frozen=True, slots=True)
class Preferred:
    """log P(answer) of both answers of a pair, in nats."""

    chosen: float
    rejected: float

    @property
    def margin(self) -> float:
        """By how many nats the better answer is the likelier one."""
        return self.chosen - self.rejected


def preferences(
    server: Served,
    pairs: Sequence[PairIds],
    *,
    on_answer: Callable[[], None],
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, list[Preferred]]:
    """Return what the `base` and the `tuned` model hold of each pair.

    Args:
        server: the model with the adapter.
        pairs: pairs that were not trained on.
        on_answer: called after each answer under either model.
        check_stop: called before each; may raise to give up.
    """
    found: dict[str, list[Preferred]] = {}
    for name, with_adapter in (("base", False), ("tuned", True)):
        server.use_adapter(with_adapter)
        found[name] = []
        for pair in pairs:
            sides = []
            for side in (pair.chosen, pair.rejected):
                check_stop()
                places = [place for place in range(1, len(side.ids)) if side.trained[place]]
                sides.append(sum(server.token_log_probabilities(side.ids, places)))
                on_answer()
            found[name].append(Preferred(*sides))
    return found


def answer_scores(
    server: Served,
    answers: Sequence[AnswerIds],
    *,
    on_answer: Callable[[], None],
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Return log P(answer) under the `base` and the `tuned` model, in nats; see `preferences`."""
    found: dict[str, list[float]] = {}
    for name, with_adapter in (("base", False), ("tuned", True)):
        server.use_adapter(with_adapter)
        found[name] = []
        for answer in answers:
            check_stop()
            places = [place for place in range(1, len(answer.ids)) if answer.trained[place]]
            found[name].append(sum(server.token_log_probabilities(answer.ids, places)))
            on_answer()
    return found


def label_figures(
    found: dict[str, list[float]], good: Sequence[bool], beta: float
) -> dict[str, Any]:
    """Return by how much good and bad answers became likelier, in the mean.

    Rewards are β times what an answer's log-probability gained, as in TRL; None for a label that no
    row has.
    """
    gains = [after - before for before, after in zip(found["base"], found["tuned"], strict=True)]

    def mean(values: Sequence[float], label: bool) -> float | None:
        own = [value for value, is_good in zip(values, good, strict=True) if is_good is label]
        return sum(own) / len(own) if own else None

    chosen, rejected = (mean([beta * gain for gain in gains], label) for label in (True, False))
    margin = None if chosen is None or rejected is None else chosen - rejected
    return {
        "good": sum(good),
        "bad": len(good) - sum(good),
        **{
            name: {"good": mean(values, True), "bad": mean(values, False)}
            for name, values in found.items()
        },
        "rewards": {"chosen": chosen, "rejected": rejected, "margin": margin},
    }


def preference_figures(found: dict[str, list[Preferred]], beta: float) -> dict[str, Any]:
    """Return how often the better answer is the likelier one, before and after, and by how much.

    Rewards are β times what an answer's log-probability gained, as in TRL.
    """
    base, tuned = found["base"], found["tuned"]
    count = len(base)
    rewards = [
        (beta * (after.chosen - before.chosen), beta * (after.rejected - before.rejected))
        for before, after in zip(base, tuned, strict=True)
    ]
    return {
        "pairs": count,
        **{name: _arm(items) for name, items in found.items()},
        "rewards": {
            "chosen": sum(better for better, _ in rewards) / count,
            "rejected": sum(worse for _, worse in rewards) / count,
            "margin": sum(better - worse for better, worse in rewards) / count,
            "accuracy": sum(better > worse for better, worse in rewards) / count,
        },
    }


def _arm(items: Sequence[Preferred]) -> dict[str, float]:
    return {
        "accuracy": sum(item.margin > 0 for item in items) / len(items),
        "margin": sum(item.margin for item in items) / len(items),
    }
