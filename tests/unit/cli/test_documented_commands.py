"""Every command that the documents show is one that the program takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaforge.cli.main import VERBS, _parser
from llamaforge.errors import UsageError

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(?:console|sh|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `llamaforge …` in the blocks of a document."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ ").replace("…", ""), comments=True)
            while words and "=" in words[0]:  # what stands in front is for the environment
                del words[0]
            if words[:1] == ["llamaforge"]:
                yield words[1:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_taken(document: Path) -> None:
    parser = _parser(list(VERBS))
    for words in commands(document.read_text(encoding="utf-8")):
        try:
            parser.parse_args(words)
        except UsageError as error:
            pytest.fail(f"llamaforge {shlex.join(words)}: {error.message}")


def test_there_are_commands_to_take() -> None:
    assert sum(1 for _ in commands(DOCUMENTS[0].read_text(encoding="utf-8"))) > 40
