"""The machine while it trains: bars of processors and memory, in one line or in a column."""

from typing import Final

from textual.content import Content

from llamaforge.safe_text import safe_line
from llamaforge.tui.gauges import Gauges
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.words import percent_words, size_words

_FULL, _REST = "━", "─"
_NEARLY_ALL: Final = 0.95
_SHORT_BAR: Final = 6


def gauge_line(gauges: Gauges | None, width: int) -> list[Content]:
    """Return all gauges in one line, as many as there is room for."""
    if gauges is None:
        return [Content.styled("measuring the machine …", MUTED)]
    shown = Content("")
    for title, part, words, _ in _gauges(gauges):
        item = Content.assemble(
            (f"{title} ", MUTED), bar(part, _SHORT_BAR), " ", (words, "bold" if part else "")
        )
        joined = item if not shown else shown + Content("   ") + item
        if joined.cell_length > width:
            break
        shown = joined
    run = _run_words(gauges)
    if run and shown.cell_length + len(run) + 3 <= width:
        shown = shown + Content.styled(f"   {run}", MUTED)
    return [shown]


def gauge_column(gauges: Gauges | None, width: int) -> list[Content]:
    """Return the gauges one below the other, each with a bar as wide as there is room."""
    if gauges is None:
        return gauge_line(gauges, width)
    rows = _gauges(gauges)
    names = max(len(title) for title, *_ in rows)
    most = max(len(words) for _, _, words, _ in rows)
    room = max(width - names - most - 2, 4)
    lines = []
    for title, part, words, more in rows:
        line = Content.assemble(
            (f"{title:<{names}} ", MUTED), bar(part, room), " ", (f"{words:>{most}}", "bold")
        )
        lines.append(line.truncate(width, ellipsis=True))
        if more:
            lines.append(Content.styled(f"{'':<{names}} {more}", MUTED).truncate(width))
    if run := _run_words(gauges):
        lines.append(Content.styled(run, MUTED).truncate(width, ellipsis=True))
    return lines


def bar(part: float | None, room: int) -> Content:
    """Return a bar of `room` cells of which this part, 0 to 1, is full."""
    if part is None:
        return Content.styled(_REST * room, MUTED)
    part = min(max(part, 0.0), 1.0)
    full = round(part * room)
    style = "$text-warning" if part >= _NEARLY_ALL else "$secondary"
    return Content.assemble((_FULL * full, style), (_REST * (room - full), MUTED))


def _gauges(gauges: Gauges) -> list[tuple[str, float | None, str, str]]:
    """Return title, part, words and a further line of each gauge."""
    used, total = gauges.memory_used, gauges.memory_total
    rows: list[tuple[str, float | None, str, str]] = [
        ("CPU", gauges.cpu, percent_words(None if gauges.cpu is None else round(gauges.cpu, 2)), "")
    ]
    part = used / total if used is not None and total else None
    rows.append(("memory", part, f"{_of(used, total)}", ""))
    for number, gpu in enumerate(gauges.gpus):
        title = "GPU" if len(gauges.gpus) == 1 else f"GPU {number}"
        held = gpu.total_bytes - gpu.free_bytes
        if gpu.busy is not None:
            rows.append((title, gpu.busy, percent_words(gpu.busy), safe_line(gpu.name, limit=40)))
        whole = held / gpu.total_bytes if gpu.total_bytes else None
        rows.append((f"{title} memory", whole, _of(held, gpu.total_bytes), ""))
    return rows


def _of(used: int | None, total: int | None) -> str:
    """Return `5.1 of 16.4 GB`, with the unit once where it is the same."""
    one, two = size_words(used), size_words(total)
    number, _, unit = one.partition(" ")
    return f"{number} of {two}" if two.endswith(f" {unit}") else f"{one} of {two}"


def _run_words(gauges: Gauges) -> str:
    """Return what of it the run itself takes."""
    if gauges.run_memory is None:
        return ""
    cores = "" if gauges.run_cores is None else f", {gauges.run_cores:.1f} cores"
    return f"this run: {size_words(gauges.run_memory)}{cores}"
