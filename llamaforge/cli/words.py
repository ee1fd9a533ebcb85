"""Numbers as people read them, those included that a file has no number for."""

from typing import Final

UNKNOWN: Final = "–"
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def duration_words(seconds: float) -> str:
    """Return a duration in its two largest units: `12 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = max(round(seconds), 0)
    if 0 < seconds < 1:
        return "under 1 s"
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def loss_words(value: float | None) -> str:
    """Return a loss in nats with four decimals."""
    return UNKNOWN if value is None else f"{value:.4f}"


def divergence_words(value: float | None) -> str:
    """Return a divergence in nats with two digits that count."""
    return UNKNOWN if value is None else f"{value:.2g}"


def percent_words(part: float | None) -> str:
    """Return a part of 1 in percent with one decimal."""
    return UNKNOWN if part is None else f"{100 * part:.1f} %"


def count_words(value: int | None) -> str:
    """Return a count with its thousands set apart."""
    return UNKNOWN if value is None else f"{value:,}"
