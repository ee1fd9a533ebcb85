"""What a run measured, taken out of its report events; a figure that is missing is None."""

from dataclasses import dataclass
from typing import Any

from llamaforge.safe_text import safe_line
from llamaforge.words import number, whole


@dataclass(frozen=True, slots=True)
class DataReport:
    """What became of the rows."""

    train: int | None
    validation: int | None
    test: int | None
    rejected: int | None
    duplicates: int | None
    shortened: int | None


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """Whether what is served is what was trained. Divergences and losses in nats a token."""

    passed: bool
    reason: str
    kl_mean: float | None
    kl_limit: float | None
    loss_trained: float | None
    loss_served: float | None
    loss_base: float | None
    rows: int | None
    is_merged: bool = False
    """Whether a merged file is served, in place of an adapter over the model's own file."""


@dataclass(frozen=True, slots=True)
class SetReport:
    """One set of held-out rows, answered by base and tuned model."""

    name: str
    rows: int | None
    base: float | None
    """Part of the answers that are exactly the expected ones, 0 to 1."""
    tuned: float | None


def data_report(figures: Any) -> DataReport:
    """Return the report of the prepare stage."""
    rows = _dictionary(_dictionary(figures).get("rows"))
    body = _dictionary(figures)
    return DataReport(
        train=whole(body.get("train")),
        validation=whole(body.get("validation")),
        test=whole(body.get("test")),
        rejected=whole(rows.get("rejected")),
        duplicates=whole(rows.get("duplicates")),
        shortened=whole(body.get("shortened")),
    )


def fidelity_report(figures: Any) -> FidelityReport:
    """Return the report of the verify stage."""
    body = _dictionary(figures)
    return FidelityReport(
        passed=body.get("passed") is True,
        reason=safe_line(str(body.get("reason") or ""), limit=300),
        kl_mean=number(body.get("kl_mean")),
        kl_limit=number(body.get("kl_limit")),
        loss_trained=number(body.get("loss_trained")),
        loss_served=number(body.get("loss_served")),
        loss_base=number(body.get("loss_base")),
        rows=whole(body.get("rows")),
        is_merged=body.get("served_as") == "merged",
    )


def evaluation_report(figures: Any) -> tuple[SetReport, ...]:
    """Return the sets of the evaluate stage."""
    sets = _dictionary(figures).get("sets")
    return tuple(
        SetReport(
            name=safe_line(str(body.get("name") or "rows"), limit=60),
            rows=whole(body.get("rows")),
            base=number(_dictionary(body.get("base")).get("exact_match")),
            tuned=number(_dictionary(body.get("tuned")).get("exact_match")),
        )
        for body in map(_dictionary, sets if isinstance(sets, list) else [])
    )


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
