"""What a person waits for at start-up loads no heavy library."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "llama_cpp")
LOADED = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
CALL = "from llamaforge.cli.main import main; assert main({words}) == 0; "
ROOMS = ("runs.launcher", "runs.tail", "runs.control", "recipe.resolve", "recipe.preflight",
         "catalog.store", "data.check", "cli.launching", "cli.progress", "cli.report")  # fmt: skip


def loaded_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code + LOADED], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], ["models"], ["runs"], ["train", "--help"]],
    ids="-".join,
)
def test_a_verb_that_only_looks_loads_no_heavy_library(words: list[str]) -> None:
    assert loaded_by(CALL.format(words=words)) == "[]"


def test_checking_a_recipe_loads_no_heavy_library(store: Path, rows: Path) -> None:
    words = ["train", "--model", "llamaforge-demo", "--store", str(store)]
    words += ["--data", str(rows), "--dry-run"]
    assert loaded_by(CALL.format(words=words)) == "[]"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_start_up_loads_no_heavy_library(room: str) -> None:
    assert loaded_by(f"import llamaforge.{room}; ") == "[]"


@pytest.mark.skipif(
    importlib.util.find_spec("llamaforge.tui.app") is None, reason="there are no screens yet"
)
def test_the_screens_load_no_heavy_library() -> None:
    assert loaded_by("import llamaforge.tui.app; ") == "[]"


def test_the_version_needs_no_verb_and_no_catalogue() -> None:
    code = (
        "import sys; from llamaforge.cli.main import main; main(['--version']); "
        "print([n for n in sys.modules if n.startswith(('llamaforge.cat', 'llamaforge.cli.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['llamaforge.cli.output', 'llamaforge.cli.main']"
