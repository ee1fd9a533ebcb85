"""Files are opened by what they hold, and a broken row costs itself and no other."""

import codecs
import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data import json_array
from llamaforge.data.containers import MAX_ROW_BYTES, Row, container_of, rows
from llamaforge.data.formats import read_records
from llamaforge.data.records import Rejection
from llamaforge.errors import InvalidFileError, NotFoundError, RefusedError
from tests.unit.data.row_files import chat, jsonl, questions, read

THREE = [chat(f"Question {number}?") for number in range(3)]
ASKED = ["Question 0?", "Question 1?", "Question 2?"]
LINES = "".join(json.dumps(row) + "\n" for row in THREE)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.txt", "rows"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("text", "container"),
    [(LINES, "jsonl"), (json.dumps(THREE), "json"), (json.dumps(THREE, indent=2), "json")],
)
def test_the_content_and_not_the_name_says_what_a_file_is(
    tmp_path: Path, name: str, packed: bool, text: str, container: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    records, rejected = read(path)
    assert container_of(path) == (f"{container}.gz" if packed else container)
    assert questions(records) == ASKED
    assert [record.row for record in records] == [1, 2, 3]
    assert not rejected


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("text", [LINES, LINES.replace("\n", "\r\n"), json.dumps(THREE, indent=1)])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
def test_every_encoding_reads_the_same(
    tmp_path: Path, encoding: str, mark: bytes, text: str, packed: bool
) -> None:
    body = mark + text.replace("Question 1?", "Ünïcödé 𝄞 漢字?").encode(encoding)
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(body) if packed else body)
    records, rejected = read(path)
    assert questions(records) == ["Question 0?", "Ünïcödé 𝄞 漢字?", "Question 2?"]
    assert not rejected


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ["", THREE[0], "  \t", "\r", THREE[1], ""])
    records, rejected = read(path)
    assert [record.row for record in records] == [2, 5]
    assert not rejected


def test_the_last_line_needs_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES.rstrip("\n"), encoding="utf-8")
    assert questions(read(path)[0]) == ASKED


def test_line_separators_within_a_text_end_no_line(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(chat(text), ensure_ascii=False) + "\n", encoding="utf-8")
    assert questions(read(path)[0]) == [text]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1, 2]", "the row is a list, not an object"),
        ("17", "the row is a number, not an object"),
        ("null", "the row is null, not an object"),
        ("true", "the row is true or false, not an object"),
        ('"text"', "the row is a text, not an object"),
        ("hello", "invalid JSON at character 1: expecting value"),
        ('{"a": 1,}', "invalid JSON at character 9: expecting property name enclosed in double"),
        ('{"a": 1} {"b": 2}', "invalid JSON at character 10: extra data"),
        ("{'a': 1}", "invalid JSON at character 2: expecting property name"),
        ('{"a": "tab\tin text"}', "invalid JSON at character 11: invalid control character"),
        ('{"a": "\\x"}', "invalid JSON at character 8: invalid \\escape"),
        ('{"messages": [', "(a row must be on one line)"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ('{"meta": {"b": {"c": 1, "c": 1}}}', "the key 'c' occurs twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "invalid JSON: Exceeds the limit"),
        ('{"a": ' + "[" * 64 + "]" * 64 + "}", "nested more than 64 deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than 64 deep"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        (b'{"a": "\xff"}', "byte 0xff at position 8 is not UTF-8"),
        (b'{"a": "caf\xe9"}', "byte 0xe9 at position 11 is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "byte 0xed at position 8 is not UTF-8"),
        (b'{"a": "\x00"}', "invalid JSON at character 8: invalid control character"),
        ('{"\\u001b[31m": 1, "\\u001b[31m": 2}', "the key '\\x1b[31m' occurs twice"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason_and_the_others_are_read(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [THREE[0], line, THREE[1]])
    records, rejected = read(path)
    assert questions(records) == ASKED[:2]
    assert len(rejected) == 1
    assert (rejected[0].source, rejected[0].row) == (str(path), 2)
    assert reason in rejected[0].reason


def test_brackets_within_a_text_are_no_depth(tmp_path: Path) -> None:
    deep = "[" * 500 + "{" * 500
    records, rejected = read(jsonl(tmp_path / "rows.jsonl", [chat(deep)]))
    assert questions(records) == [deep]
    assert not rejected


def test_63_lists_in_an_object_are_not_too_deep(tmp_path: Path) -> None:
    meta = "[" * 63 + "]" * 63
    line = json.dumps(chat())[:-1] + f', "meta": {meta}}}'
    records, rejected = read(jsonl(tmp_path / "rows.jsonl", [line]))
    assert len(records) == 1
    assert not rejected


LAST = json.dumps(chat("Größe 漢字 𝄞?", 'A "quoted" \\ answer.\n'), ensure_ascii=False).encode()


@settings(max_examples=200, deadline=None)
@given(kept=st.integers(min_value=1, max_value=len(LAST) - 1))
def test_a_last_line_that_is_cut_off_anywhere_is_said_to_be_cut_off(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    path.write_bytes(LINES.encode() + LAST[:kept])
    records, rejected = read(path)
    assert questions(records) == ASKED
    assert [row.row for row in rejected] == [4]
    assert rejected[0].reason.endswith("(the last line is cut off)")


@pytest.mark.parametrize("value", ["tru", "f", "nul", "-", '"\\u00', '"\\', "[1", "1", '{"b":'])
def test_a_last_value_that_is_cut_off_is_said_to_be_cut_off(tmp_path: Path, value: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": ' + value, encoding="utf-8")
    assert read(path)[1][0].reason.endswith("(the last line is cut off)")


def test_a_broken_last_line_is_not_said_to_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": oops}', encoding="utf-8")
    assert "cut off" not in read(path)[1][0].reason


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_half_a_character_in_utf16_rejects_its_own_row_only(tmp_path: Path, encoding: str) -> None:
    text = LINES.replace("Question 1?", "Question \ud800?")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    records, rejected = read(path)
    assert questions(records) == [ASKED[0], ASKED[2]]
    assert [row.row for row in rejected] == [2]
    assert "is not UTF-8" in rejected[0].reason


def test_an_odd_byte_at_the_end_of_utf16_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES.encode("utf-16-le") + b"{")
    records, rejected = read(path)
    assert questions(records) == ASKED
    assert [row.row for row in rejected] == [4]


def test_a_lone_surrogate_escape_rejects_the_row(tmp_path: Path) -> None:
    bad = json.dumps(chat("a \ud83d b"))
    hidden = json.dumps(chat(meta={"note": "\udc00"}))
    records, rejected = read(jsonl(tmp_path / "rows.jsonl", [bad, hidden, chat("a 😃 b")]))
    assert questions(records) == ["a 😃 b"]
    assert [row.reason for row in rejected] == [
        "a text holds half a character (a lone surrogate)",
        "meta holds half a character (a lone surrogate)",
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_of_50_megabytes_is_rejected_in_bounded_memory(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "rows.jsonl"
    long_row = b'{"messages": "' + b"x" * 50_000_000 + b'"}\n'
    body = LINES.encode() + long_row + LINES.encode()
    path.write_bytes(gzip.compress(body, 1) if packed else body)
    del body, long_row
    tracemalloc.start()
    try:
        records, rejected = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert questions(records) == ASKED * 2
    assert [(row.row, row.reason) for row in rejected] == [(4, "the row is longer than 16 MiB")]
    assert peak < 3 * MAX_ROW_BYTES


def test_a_line_without_end_is_rejected_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES.encode() + b'{"a": "' + b"x" * (MAX_ROW_BYTES + 1))
    assert [row.row for row in read(path)[1]] == [4]


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(LINES.encode())
        file.truncate(1 << 36)  # 64 GiB, sparse: reading it all would take minutes
    found = rows(path)
    assert [row.row for row in (next(found), next(found), next(found))] == [1, 2, 3]


@pytest.mark.parametrize("text", ["[]", " [ \n ] \n"])
def test_an_empty_array_has_no_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    assert list(read_records(path)) == []


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("17", "the row is a number, not an object"),
        ("", "there is no item"),
        ('{"a": 1]', "expecting ',' delimiter"),
        ('{"a": 1}}', "extra data"),
        ('{"a": 1 "b": 2}', "invalid JSON at character 9: expecting ',' delimiter"),
        ('{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        ("[" * 50_000 + "]" * 50_000, "nested more than 64 deep"),
    ],
)
def test_a_bad_item_is_rejected_with_its_reason_and_the_others_are_read(
    tmp_path: Path, item: str, reason: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f"[{json.dumps(THREE[0])}, {item}, {json.dumps(THREE[1])}]", encoding="utf-8")
    records, rejected = read(path)
    assert questions(records) == ASKED[:2]
    assert [row.row for row in rejected] == [2]
    assert reason in rejected[0].reason


def test_a_comma_before_the_closing_bracket_is_an_item_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f"[{json.dumps(THREE[0])}, ]", encoding="utf-8")
    records, rejected = read(path)
    assert questions(records) == ASKED[:1]
    assert [(row.row, row.reason) for row in rejected] == [(2, "there is no item")]


def test_an_item_of_50_megabytes_is_rejected_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with path.open("wb") as file:
        file.write(b"[" + json.dumps(THREE[0]).encode() + b', {"a": "')
        file.write(b"x ,[]{ " * 200_000 + b"y" * 49_000_000)
        file.write(b'"}, ' + json.dumps(THREE[1]).encode() + b"]")
    tracemalloc.start()
    try:
        records, rejected = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert questions(records) == ASKED[:2]
    assert [(row.row, row.reason) for row in rejected] == [(2, "the row is longer than 16 MiB")]
    assert peak < 3 * MAX_ROW_BYTES


@settings(max_examples=100, deadline=None)
@given(kept=st.integers(min_value=2, max_value=len(json.dumps(THREE)) - 1))
def test_an_array_that_is_cut_off_anywhere_keeps_its_whole_items_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    text = json.dumps(THREE)[:kept]
    path = tmp_path_factory.mktemp("cut") / "rows.json"
    path.write_text(text, encoding="utf-8")
    records, rejected = read(path)
    assert questions(records) == ASKED[: text.count('"A test."}]}')]
    assert len(rejected) == 1
    assert rejected[0].row == len(records) + 1
    assert "its JSON array is not closed" in rejected[0].reason


@pytest.mark.parametrize("tail", ["[]", ", {}", "x", "]"])
def test_text_after_the_array_is_refused_for_nobody_knows_how_many_rows_it_holds(
    tmp_path: Path, tail: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(THREE) + "\n" + tail, encoding="utf-8")
    with pytest.raises(InvalidFileError, match="goes on after the end of its JSON array") as error:
        list(read_records(path))
    assert error.value.code == "text_after_array"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=5),
    chunk=st.integers(min_value=1, max_value=40),
    ascii_only=st.booleans(),
    indent=st.none() | st.integers(min_value=0, max_value=2),
)
def test_an_array_streamed_in_chunks_of_any_size_is_the_array(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[dict[str, object]],
    chunk: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    path = tmp_path_factory.mktemp("array") / "rows.json"
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK_BYTES", chunk)
        assert list(rows(path)) == [Row(number, value) for number, value in enumerate(values, 1)]


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), opening=st.sampled_from([b"", b"[", b'{"', b'[{"a":"']))
def test_no_bytes_at_all_end_in_anything_but_rows_reasons_and_refusals(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, opening: bytes
) -> None:
    path = tmp_path_factory.mktemp("noise") / "rows"
    path.write_bytes(opening + body)
    try:
        items = list(read_records(path))
    except InvalidFileError:
        return
    numbers = [item.row for item in items]
    assert numbers == sorted(set(numbers))
    assert all(item.reason.isprintable() for item in items if isinstance(item, Rejection))


@pytest.mark.parametrize("cut", [-4, -12, 20])
def test_a_damaged_gzip_file_is_refused_for_nobody_knows_how_many_rows_it_lost(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode())[:cut])
    with pytest.raises(InvalidFileError, match="damaged") as error:
        list(read_records(path))
    assert error.value.code == "damaged_gzip"


@pytest.mark.parametrize(
    ("head", "description"),
    [
        (b"PK\x03\x04rest", "a ZIP archive or a spreadsheet"),
        (b"GGUF\x03\0\0\0", "a GGUF model"),
        (b"%PDF-1.7", "a PDF document"),
        (b"SQLite format 3\0", "an SQLite database"),
        (gzip.compress(b"PAR1\x15\x04", mtime=0), "a Parquet file within a gzip archive"),
        (b"PARE\x15\x04", "an encrypted Parquet file"),
        ("{}".encode("utf-32"), "UTF-32 text"),
        (b"\x7fELF\x02\x01\0\0", "a binary file"),
        (
            gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
            "a gzip archive within a gzip archive",
        ),
        (gzip.compress(b"\0\1\2\3", mtime=0), "a binary file"),
    ],
)
def test_a_file_that_is_not_text_is_refused_by_what_it_is(
    tmp_path: Path, head: bytes, description: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(head)
    with pytest.raises(InvalidFileError, match=f"rows.jsonl is {description}") as error:
        container_of(path)
    assert error.value.code == "binary_source"


def test_a_file_that_does_not_exist_is_not_found_and_a_near_name_is_offered(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(NotFoundError, match="There is no file") as error:
        list(read_records(tmp_path / "trian.jsonl"))
    assert error.value.hint == f"Did you mean {tmp_path / 'train.jsonl'}?"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is a folder") as error:
        list(read_records(tmp_path))
    assert error.value.code == "source_is_folder"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedError, match="not a regular file") as error:
        list(read_records(tmp_path / "pipe"))
    assert error.value.code == "source_not_a_file"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_file_that_the_system_will_not_read_is_refused() -> None:
    with pytest.raises(RefusedError, match="cannot be read: Input/output error") as error:
        list(read_records(Path("/proc/self/mem")))
    assert error.value.code == "unreadable_source"


def test_a_name_that_is_too_long_for_the_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be read: File name too long"):
        list(read_records(tmp_path / ("x" * 5000)))


def test_a_file_name_that_is_no_unicode_or_holds_escapes_can_be_read_and_named(
    tmp_path: Path,
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m.jsonl"))
    jsonl(path, [chat(), "oops"])
    records, rejected = read(path)
    assert records[0].source == rejected[0].source
    assert records[0].source.endswith("/\\udcff\x1b[31m.jsonl")
    path.write_bytes(b"GGUF")
    with pytest.raises(InvalidFileError, match=r"\\x1b\[31m"):
        container_of(path)
