"""What looks like a secret is told by nobody, in whatever part of a row it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamaforge.data.analysis import Severity, analyse
from llamaforge.data.formats import detect, read_records
from llamaforge.data.privacy import masked_line
from llamaforge.data.records import Record, Rejection
from llamaforge.errors import LlamaForgeError

KEY = "ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz1"
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]


def file_of(folder: Path, *lines: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS, "split": KEY},
        {"messages": [{"role": KEY, "content": "x"}, *TURNS]},
        {"messages": [{"role": "user", "content": [{"type": KEY, "text": "x"}]}, TURNS[1]]},
        {"messages": [{KEY: "x"}]},
        {KEY: "x", "completion": "y"},
        f'{{"prompt": "a", "{KEY}": 1, "{KEY}": 2}}',
        {"message_id": "1", "parent_id": KEY, "text": "x", "role": "assistant"},
        {"message_id": "1", "parent_id": None, "text": "x", "role": KEY},
    ],
)
def test_no_reason_tells_a_secret(tmp_path: Path, row: object) -> None:
    found = list(read_records(file_of(tmp_path, {"messages": TURNS}, row)))
    reasons = [item.reason for item in found if isinstance(item, Rejection)]
    assert reasons
    # Not even the beginning of one that is cut off.
    assert KEY[:12] not in " ".join(reasons)


def test_no_column_tells_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,{KEY},completion\na,b,c\n")
    assert KEY not in str(detect(path))
    path.write_text(f"prompt,{KEY},{KEY},completion\na,b,c,d\n")
    with pytest.raises(LlamaForgeError) as caught:
        list(read_records(path))
    assert KEY not in caught.value.message


def test_a_secret_in_what_is_kept_beside_a_row_stops_the_run(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"messages": TURNS, "meta": {"source": {"token": KEY}}})
    (record,) = read_records(path)
    assert isinstance(record, Record)
    found = analyse([record])
    assert found.severity is Severity.STOP
    assert KEY not in json.dumps(found.to_json())


def test_a_long_secret_that_ends_an_answer_is_masked_as_a_whole(tmp_path: Path) -> None:
    token = f"eyJ{'hbGciOiJIUzI1NiJ9'}.eyJ{'zdWIiOiIxMjM0NTY3ODkwIn0' * 9}.{'dozjgNryP4J3jVmN' * 4}"
    good = [
        {"prompt": f"Say {n}, and why it is so.", "completion": f"It is {n}. " + "So it is. " * 9}
        for n in range(40)
    ]
    rows = [*good, {"prompt": "Which token?", "completion": f"It is this one: {token}"}]
    records = [row for row in read_records(file_of(tmp_path, *rows)) if isinstance(row, Record)]
    said = json.dumps(analyse(records).to_json())
    assert "cut_off" in said
    assert token[-40:] not in said


def test_a_line_is_masked_before_it_is_cut() -> None:
    assert masked_line(f"x {KEY}\n and more", limit=10) == "x gh…z1 a…"
