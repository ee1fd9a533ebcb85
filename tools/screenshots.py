"""Pictures of the program's screens, taken of the real program: `python tools/screenshots.py`.

Everything happens in a home of its own, with the built-in model and the built-in rows, in a process
of its own; a real run is trained for the monitor. The pictures go to `docs/screens`.
"""

import argparse
import asyncio
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from textual.pilot import Pilot
from textual.widgets import Input

from llamaforge import paths

SIZE: Final = (110, 32)
_PATIENCE_SECONDS: Final = 240.0
_REPOSITORY: Final = Path(__file__).parent.parent

Ask = Callable[[], bool]


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_REPOSITORY / "docs" / "screens")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {
            "LLAMAFORGE_HOME": str(Path(place) / "home"),
            "OLLAMA_MODELS": str(paths.embedded_store()),
            "OLLAMA_HOST": "127.0.0.1:9",
            "TEXTUAL_ANIMATIONS": "none",
            "PYTHONPATH": str(_REPOSITORY),
        }
        os.environ.pop("NO_COLOR", None)
        rows = Path(place) / "tickets.jsonl"
        lines = paths.embedded_data().read_text(encoding="utf-8").splitlines(keepends=True)
        rows.write_text("".join(lines[:600]), encoding="utf-8")
        os.chdir(place)
        asyncio.run(_taken(folder, rows))


async def _taken(folder: Path, rows: Path) -> None:
    from llamaforge.tui.app import LlamaForgeApp  # noqa: PLC0415 - reads the environment

    async with LlamaForgeApp().run_test(size=SIZE, notifications=False) as pilot:
        await _way(pilot, Camera(pilot, folder), rows)


class Camera:
    """Takes pictures of one running program."""

    def __init__(self, pilot: Pilot[Any], folder: Path) -> None:
        self._pilot = pilot
        self._folder = folder

    async def take(self, name: str, *, shows: str = "") -> None:
        """Write the picture `name` once `shows` is on the screen."""
        await self.wait(lambda: shows in self.text)
        await self._pilot.pause(0.3)
        path = self._folder / f"{name}.svg"
        path.write_text(self._pilot.app.export_screenshot(title="llamaforge"), encoding="utf-8")
        print(path)

    async def wait(self, holds: Ask) -> None:
        """Wait until something holds, or fail with what is on the screen."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"it did not come:\n{self.text}")
            await self._pilot.pause(0.05)

    @property
    def text(self) -> str:
        """What is on the screen."""
        strips = self._pilot.app.screen._compositor.render_strips()  # noqa: SLF001 - as tests do
        return "\n".join(strip.text for strip in strips)


async def _way(pilot: Pilot[Any], camera: Camera, rows: Path) -> None:
    async def go(shows: str, *keys: str) -> None:
        await pilot.press(*keys)
        await camera.wait(lambda: shows in camera.text)

    async def say(text: str, shows: str) -> None:
        field = pilot.app.screen.query_one(Input)
        field.value = text
        field.focus()
        await go(shows, "enter")

    await camera.take("welcome", shows="no server answers")
    await go("ready to train", "enter")
    await camera.take("models", shows="Ready to train")
    await go("What to train on", "enter")
    await camera.take("base", shows="recommended")
    await go("Files, folders", "enter")
    await say(rows.name, "How many rows to hold back")
    await camera.take("rows", shows="Your rows")
    await go("of them learned", "ctrl+t")
    await camera.take("tokens", shows="^^^")
    await go("How many rows to hold back", "escape")
    await go("What you want", "enter")
    await camera.take("goal", shows="Classify")
    await go("How much time it gets", "down", "enter")
    await go("Settings to change", "enter")
    await go("more than 0 to 1", "down")
    await camera.take("settings", shows="takes")
    await go("Questions to watch", "up", "enter")
    await say("What is the capital of France?", "Enter takes it away")
    await go("The name of the run", "enter")
    await say("tickets", "The name in Ollama")
    await say("ticket-helper", "Go on to the last page")
    await camera.take("check", shows="The whole run takes")
    await go("The recipe", "enter")
    await camera.take("review")
    await _run(pilot, camera)


async def _run(pilot: Pilot[Any], camera: Camera) -> None:
    await pilot.press("b")
    await _shown_step(camera)
    await camera.take("monitor")


async def _shown_step(camera: Camera) -> None:

    await camera.wait(lambda: re.search(r"\b[2-9]\d of [0-9]+", camera.text) is not None)


if __name__ == "__main__":
    main()
