"""Rows and files of rows for tests, and the shortest way to read them back."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llamaforge.data.formats import read_records
from llamaforge.data.records import Message, Record, Rejection, record_id

Row = dict[str, Any]


def chat(question: str = "What is it?", answer: str = "A test.", **fields: Any) -> Row:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns} | fields


def record(
    question: str, answer: str = "Yes.", *, row: int = 1, split: str | None = None
) -> Record:
    messages = (Message("user", question), Message("assistant", answer))
    return Record(record_id(messages), "rows.jsonl", row, messages, split)


def jsonl(path: Path, rows: Iterable[object]) -> Path:
    """Write one row a line; a `str` or `bytes` is a line as it stands."""
    path.write_bytes(b"".join(_line(row) + b"\n" for row in rows))
    return path


def _line(row: object) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row)).encode()


def read(path: Path) -> tuple[list[Record], list[Rejection]]:
    items = list(read_records(path))
    return (
        [item for item in items if isinstance(item, Record)],
        [item for item in items if isinstance(item, Rejection)],
    )


def questions(records: Iterable[Record]) -> list[str]:
    return [record.messages[-2].content for record in records]
