"""`data diff`: what is compared, and what is not."""

from pathlib import Path

import pytest

from llamaforge.cli.main import main
from tests.unit.data.row_files import chat, jsonl


def test_rows_that_cannot_be_used_are_counted_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = jsonl(tmp_path / "whole.jsonl", [chat()])
    broken = jsonl(tmp_path / "broken.jsonl", [chat(), "oops", "oops"])
    assert main(["data", "diff", str(whole), str(broken)]) == 0
    shown = capsys.readouterr()
    assert "1 row in both" in shown.out
    assert "2 of 3 rows of broken.jsonl cannot be used" in shown.err
