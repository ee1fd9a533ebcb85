"""`data check` on a terminal: every line of a report, whatever the findings weigh."""

from pathlib import Path
from typing import Any

import pytest

from llamaforge.cli.main import main
from llamaforge.runs import data_checks

Capture = pytest.CaptureFixture[str]


def section(severity: str) -> dict[str, Any]:
    example = {"source": "a.jsonl", "line": 7, "text": "\x1b[2J"}
    return {
        "severity": severity,
        "title": severity.title(),
        "message": "Something about rows that takes more room than one line of a terminal has.",
        "examples": [example],
    }


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    report: dict[str, Any] = {
        "can_train": False,
        "sources": [],
        "rows": {
            "read": 1,
            "accepted": 1,
            "repaired": 0,
            "rejected": 0,
            "left_out": 0,
            "repeated": 0,
        },
        "repairs": {},
        "rejected": [],
        "model": None,
        "analysis": {"sections": list(map(section, ("info", "warn", "stop"))), "lengths": None},
        "problems": [{"level": "stop", "code": "secrets", "message": "A key is in there."}],
    }
    monkeypatch.setattr(data_checks, "check", lambda *_: report)
    return report


def test_findings_have_their_sign_and_examples(
    found: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    assert main(["data", "check", str(tmp_path / "a.jsonl")]) == 3
    shown = capsys.readouterr()
    assert "\n  Info: Something" in shown.out
    assert "\n! Warn: Something" in shown.out
    assert "\n✗ Stop: Something" in shown.out
    assert shown.out.count("    a.jsonl row 7: \\x1b[2J\n") == 2
    assert shown.out.endswith("No run could be trained on these rows:\n✗ A key is in there.\n")
    assert "add: --model NAME" in shown.err


def test_a_terminal_gets_no_line_that_is_too_wide(
    found: dict[str, Any], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    main(["data", "check", str(tmp_path / "a.jsonl")])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
