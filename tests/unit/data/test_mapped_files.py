"""One mapping for several files is for those that have its columns."""

from pathlib import Path

import pytest

from llamaforge.data.check import Division, collect
from llamaforge.data.mapping import Mapping
from llamaforge.data.reading import ReadChoices
from llamaforge.data.sources import parse_source
from llamaforge.errors import UsageError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    table, known = tmp_path / "table.csv", tmp_path / "known.jsonl"
    table.write_text("frage,antwort\nwie viele?,drei\nund wo?,hier\n")
    known.write_text('{"prompt": "is it?", "completion": "yes"}\n')
    return [table, known]


def read(files: list[Path], mapping: str) -> tuple[list[str], tuple[str, ...]]:
    found = collect(
        [parse_source(str(path)) for path in files],
        max_rejected_fraction=0.0,
        division=Division(0.0),
        choices=ReadChoices(mapping=Mapping.parse(mapping)),
    )
    turns = [turn.content for record in found.splits["train"] for turn in record.messages]
    return turns, found.warnings


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_without_its_columns_is_read_as_what_it_is(files: list[Path], order: int) -> None:
    turns, warnings = read(files[::order], "prompt=frage,completion=antwort")
    assert set(turns) == {"wie viele?", "drei", "und wo?", "hier", "is it?", "yes"}
    (warning,) = warnings
    assert warning == (f"The mapping names no column of {files[1]}, which is read as what it is.")


@pytest.mark.parametrize(
    ("mapping", "column"),
    [
        ("prompt=frag,completion=antwor", "frag"),  # fits no file
        ("prompt=frage,completion=antwor", "antwor"),  # half of it fits one
    ],
)
def test_a_misspelt_column_is_never_passed_over(
    files: list[Path], mapping: str, column: str
) -> None:
    with pytest.raises(UsageError, match=f"from {column}, which") as caught:
        read(files, mapping)
    assert caught.value.code == "unknown_column"


def test_what_names_mean_in_turns_is_for_every_file(files: list[Path]) -> None:
    files[1].write_text('{"conversations": [{"from": "me", "value": "a"}, '
                        '{"from": "bot", "value": "b"}]}\n')  # fmt: skip
    turns, _ = read(files, "prompt=frage,completion=antwort,roles.me=user")
    assert {"a", "b"} <= set(turns)
