"""What is made once for all tests that only look at it, or at a copy of it."""

import fcntl
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.program import Program


@dataclass(frozen=True)
class FinishedRun:
    """A run in a home of its own, which nobody changes, and what `train --json` said of it."""

    program: Program
    name: str
    rows: Path
    events: list[dict[str, Any]]

    def copy_to(self, program: Program) -> None:
        """Put a copy of the home into that of `program`, as if the run had been made there."""
        shutil.copytree(self.program.home, program.home, symlinks=True)
        listed = program.directory(self.name).artifacts / "artifacts.json"
        here, there = str(program.home), str(self.program.home)
        listed.write_text(listed.read_text().replace(there, here))


def made_once(folder: Path, make: Callable[[], Any]) -> Any:
    """Return what `make`, which fills `folder`, returned in the first process to come here.

    Args:
        folder: one that the processes of a test session have in common.
        make: returns what JSON can say.
    """
    folder.mkdir(exist_ok=True)
    kept = folder / "made.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps(make()))
        return json.loads(kept.read_text())
