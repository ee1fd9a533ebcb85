"""`data convert`: what is printed, and for whom."""

import argparse
import json
from pathlib import Path

import pytest

from llamaforge.cli import data_convert
from llamaforge.errors import ExitCode
from tests.unit.data.row_files import chat, jsonl, read


def command(*words: object) -> ExitCode:
    parser = argparse.ArgumentParser()
    data_convert.add_parser(parser.add_subparsers())
    return data_convert.run(parser.parse_args(["convert", *map(str, words)]))


def test_counts_go_out_and_each_reason_once_to_the_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [chat(), *["\x1b[2J"] * 25, chat()])
    out = tmp_path / "out.jsonl"
    assert command(source, "--to", "chat", "--out", out) is ExitCode.DONE
    said = capsys.readouterr()
    assert said.out.splitlines() == ["27 rows read: 2 written, 25 left out.", str(out)]
    assert "rows.jsonl row 2: invalid JSON" in said.err.splitlines()[0]
    assert said.err.splitlines()[1:] == ["left out: 24 more; --json names them"]
    assert "\x1b" not in said.err
    assert len(read(out)[0]) == 2


def test_scripts_get_all_of_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_system = {"prompt": "Q", "completion": "A", "system": "S"}
    source = jsonl(tmp_path / "rows.jsonl", [with_system, "oops"])
    out = tmp_path / "out.jsonl"
    more = ["--to", "prompt-completion", "--fold", "--json"]
    assert command(source, *more, "--out", out) is ExitCode.DONE
    said = capsys.readouterr()
    body = json.loads(said.out)
    assert said.err == ""
    assert body["rows"] == {"read": 2, "written": 1, "rejected": 1, "folded": 1}
    assert (body["rejected"][0]["line"], body["out"]) == (2, str(out))
    assert json.loads(out.read_text()) == {"prompt": "S\n\nQ", "completion": "A"}
