"""Waiting for what a screen shows, in place of waiting for a time."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from textual.events import Key
from textual.pilot import Pilot
from textual.widget import Widget

from llamaforge.tui.widgets.lines import Lines

DEADLINE_SECONDS = 20.0


def type_ahead(pilot: Pilot[Any], *keys: str) -> None:
    """Press keys as they come over a slow line: all at once."""
    for key in keys:
        pilot.app.post_message(Key(key, key if len(key) == 1 else None))


async def until(pilot: Pilot[Any], holds: Callable[[], bool]) -> None:
    """Wait until `holds` does, or fail."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
        await pilot.pause()


async def until_shown(pilot: Pilot[Any], text: str) -> None:
    """Wait until `text` is on the screen, folded or not, or fail with what is there."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while text not in (shown := screen_text(pilot)) and text not in " ".join(shown.split()):
        assert time.monotonic() < deadline, f"{text!r} is not in:\n{shown}"
        await asyncio.sleep(0.01)
        await pilot.pause()


def text_of(pilot: Pilot[Any], selector: str) -> str:
    """Return what the widget of the screen on top shows."""
    widget = pilot.app.screen.query_one(selector, Widget)
    assert isinstance(widget, Lines)
    return widget.render().plain


def screen_text(pilot: Pilot[Any]) -> str:
    """Return the whole picture as lines of text."""
    app = pilot.app
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips)
