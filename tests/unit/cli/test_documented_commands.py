"""Every command that the documents show is one that the program takes."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llamaforge.cli.main import VERBS, _parser
from llamaforge.errors import UsageError
from llamaforge.recipe.resolve import with_settings

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


CLUSTERS = ROOT / "docs" / "clusters"
SCRIPTS = {
    "slurm.sh": (CLUSTERS / "slurm.sh").read_text(encoding="utf-8"),
    "skypilot.yaml": yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text("utf-8"))["run"],
}
_VARIABLE = re.compile(r"\$\{(\w+)[^}]*\}|\$(\w+)")
VARIABLES = {"FIRST": "node1", "PORT": "29400", "NAME": "notes", "RECIPE": "recipe.yaml"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_for_clusters_say_what_the_program_takes(name: str) -> None:
    text = SCRIPTS[name].replace("\\\n", " ")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    parser = _parser(list(VERBS))
    found = set()
    for line in re.findall(r"^(?!#).*?(llamaforge (?:runs|train) [^|;\n]*)", text, re.MULTILINE):
        plain = _VARIABLE.sub(lambda at: VARIABLES.get(at[1] or at[2], "2"), line)
        arguments = parser.parse_args(shlex.split(plain)[1:])
        found.add(plain.split()[1])
        if "train" in plain.split()[1:2]:
            launch = with_settings(
                {"model": {"name": "m"}, "data": {"sources": ["rows"]}}, arguments.settings
            ).launch
            assert (launch.world, launch.rendezvous) == (4, "node1:29400")
    assert found == {"runs", "train"}
    assert "python -m llamaforge.worker.many " in text


def test_there_are_commands_to_take() -> None:
    assert sum(1 for _ in commands(DOCUMENTS[0].read_text(encoding="utf-8"))) > 40
