"""Numbers as people read them."""

import math
from typing import Any, Final

UNKNOWN: Final = "–"
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None: figures are read from files."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """Return `value` as an integer if it is a finite number, else None."""
    found = number(value)
    return None if found is None else int(found)


def size_words(size_bytes: float | None) -> str:
    """Return a size as Ollama shows it: decimal units, `1.9 GB`."""
    if size_bytes is None:
        return UNKNOWN
    size = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def megabytes(size_bytes: float) -> str:
    """Return a size in whole megabytes, where two sizes that are near shall look different."""
    return f"{size_bytes / 1e6:,.0f} MB"


def count_words(count: int) -> str:
    """Return a number of weights as models are named: `3.1B`, `494M`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size * 0.9995:
            short = count / size
            return f"{short:.0f}{unit}" if short >= 99.95 else f"{short:.1f}{unit}"
    return str(count)


def duration_words(seconds: float | None) -> str:
    """Return a duration in its two largest units: `48 s`, `2 min 10 s`, `1 h 05 min`."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 1:
        return "under 1 s"
    rest = max(round(seconds), 0)
    if rest < _MINUTE:
        return f"{rest} s"
    if rest < _HOUR:
        return f"{rest // _MINUTE} min {rest % _MINUTE:02} s"
    if rest < _DAY:
        return f"{rest // _HOUR} h {rest % _HOUR // _MINUTE:02} min"
    return f"{rest // _DAY} d {rest % _DAY // _HOUR} h"


def range_words(low: float, high: float) -> str:
    """Return a range of durations in one unit: `48–55 s`, `12–15 min`, `3.5–4.2 h`."""
    low, high = max(low, 0.0), max(high, low, 0.0)
    for unit, seconds, most in (("s", 1, 2 * _MINUTE), ("min", _MINUTE, 2 * _HOUR),
                                ("h", _HOUR, 3 * _DAY), ("d", _DAY, math.inf)):  # fmt: skip
        if high < most:
            digits = 1 if unit in {"h", "d"} and high / seconds < 10 else 0
            one, two = f"{low / seconds:.{digits}f}", f"{high / seconds:.{digits}f}"
            return f"{one} {unit}" if one == two else f"{one}–{two} {unit}"
    return UNKNOWN


def clock_words(seconds: float) -> str:
    """Return a time since the start of a run as `h:mm:ss`."""
    rest = max(int(seconds), 0)
    return f"{rest // _HOUR}:{rest % _HOUR // _MINUTE:02}:{rest % _MINUTE:02}"


def loss_words(loss: float | None) -> str:
    """Return a loss with four decimals, or fewer where it is large."""
    if loss is None:
        return UNKNOWN
    return f"{loss:.4f}" if abs(loss) < 100 else f"{loss:.4g}"


def short_number(value: float | None) -> str:
    """Return a number with two significant digits: a learning rate, a divergence."""
    return UNKNOWN if value is None else f"{value:.2g}"


def percent_words(part: float | None) -> str:
    """Return a part of one as a percentage: `96 %`, and a decimal where the first is not whole."""
    if part is None:
        return UNKNOWN
    percent = part * 100
    return f"{percent:.0f} %" if abs(percent - round(percent)) < 0.05 else f"{percent:.1f} %"


def plural(count: int | None, one: str, many: str = "") -> str:
    """Return a count with its word: `1 row`, `1,500 rows`; `many` where an s is not enough."""
    return f"{whole_words(count)} {one if count == 1 else many or f'{one}s'}"


def whole_words(value: int | None) -> str:
    """Return a whole number with its thousands set apart."""
    return UNKNOWN if value is None else f"{value:,}"
