"""Tables and plain text: all ways to write the same rows read the same; damage costs itself."""

import codecs
import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.containers import MAX_ROW_BYTES, Row, container_of, layout_of, place_word, rows
from llamaforge.data.plain_text import MOST_CHARACTERS, PASSAGE_CHARACTERS
from llamaforge.data.records import Rejection
from llamaforge.errors import InvalidFileError

QA = ["question", "answer"]
PLAIN = "question,answer\nWhat is it?,A test.\nAnd this?,Another.\n"
PLAIN_ROWS = [
    Row(2, {"question": "What is it?", "answer": "A test."}),
    Row(3, {"question": "And this?", "answer": "Another."}),
]


def written(folder: Path, name: str, body: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    return path


def split(path: Path) -> tuple[list[Row], list[Rejection]]:
    items = list(rows(path))
    return (
        [item for item in items if isinstance(item, Row)],
        [item for item in items if isinstance(item, Rejection)],
    )


def cells(path: Path) -> list[list[Any]]:
    found, rejected = split(path)
    assert rejected == []
    return [list(row.fields.values()) for row in found]


def packed(body: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.compress(body)
    return bytes(pyarrow.compress(body, "zstd", asbytes=True)) if packing == ".zst" else body


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
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
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_line_end_and_packing_of_a_table_reads_the_same(
    tmp_path: Path, packing: str, encoding: str, mark: bytes, end: str
) -> None:
    text = PLAIN.replace("A test.", "Ünïcödé 𝄞 漢字").replace("\n", end)
    path = written(tmp_path, "rows.csv" + packing, packed(mark + text.encode(encoding), packing))
    assert container_of(path) == "csv" + packing
    assert cells(path) == [["What is it?", "Ünïcödé 𝄞 漢字"], ["And this?", "Another."]]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows", "rows.jsonl"])
@pytest.mark.parametrize(
    ("delimiter", "container"), [(",", "csv"), ("\t", "tsv"), (";", "csv"), ("|", "csv")]
)
def test_the_delimiter_is_told_from_the_content(
    tmp_path: Path, name: str, delimiter: str, container: str
) -> None:
    path = written(tmp_path, name, PLAIN.replace(",", delimiter))
    layout = layout_of(path)
    assert (layout.container, layout.dialect and layout.dialect.delimiter) == (container, delimiter)
    assert list(rows(path)) == PLAIN_ROWS


@pytest.mark.parametrize("name", ["rows.csv", "rows"])
def test_other_columns_than_those_of_known_formats_make_a_table_too(
    tmp_path: Path, name: str
) -> None:
    body = "frage;antwort\nWas, bitte?;Das, und das.\nWo, bitte?;Dort, oder da.\n"
    assert cells(written(tmp_path, name, body))[0] == ["Was, bitte?", "Das, und das."]


def test_a_ragged_row_does_not_make_a_table_one_column(tmp_path: Path) -> None:
    body = "frage,antwort\na,b\nc\nd,e\n"
    found, rejected = split(written(tmp_path, "rows.csv", body))
    assert [row.row for row in found] == [2, 4]
    assert [row.row for row in rejected] == [3]


def test_a_single_column_without_quotes_may_hold_commas(tmp_path: Path) -> None:
    assert cells(written(tmp_path, "rows.csv", "text\nOne, two.\nThree.\n")) == [
        ["One, two."],
        ["Three."],
    ]


def test_excel_says_its_delimiter_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "sep=;\r\nquestion;answer\r\na;b\r\n")
    assert list(rows(path)) == [Row(3, {"question": "a", "answer": "b"})]


def test_a_cell_may_hold_lines_delimiters_and_quotes(tmp_path: Path) -> None:
    body = 'question,answer\n"one\r\ntwo, ""three""\n\nfour",b\nc,d\n'
    found, rejected = split(written(tmp_path, "rows.csv", body))
    assert rejected == []
    assert found == [
        Row(2, {"question": 'one\r\ntwo, "three"\n\nfour', "answer": "b"}),
        Row(6, {"question": "c", "answer": "d"}),
    ]


def test_markup_escapes_and_white_space_in_cells_stay_as_they_are(tmp_path: Path) -> None:
    cell = ' <|im_start|>[bold]\x1b[31m\\n\u202e\u2028 {"a": '
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([QA, [cell, "=1+1"]])
    assert cells(path) == [[cell, "=1+1"]]


def test_an_empty_cell_is_an_empty_text_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    body = '\nquestion,answer\n\n,\n  \n"",NULL\n'
    found, rejected = split(written(tmp_path, "rows.csv", body))
    assert rejected == []
    assert [(row.row, list(row.fields.values())) for row in found] == [
        (4, ["", ""]),
        (6, ["", "NULL"]),
    ]


def test_the_index_that_pandas_writes_is_a_column_like_any_other(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", ",question,answer\n0,a,b\n")
    assert list(rows(path)) == [Row(2, {"column 1": "0", "question": "a", "answer": "b"})]


def test_quotes_are_plain_characters_in_tabs_that_were_written_without_quoting(
    tmp_path: Path,
) -> None:
    body = 'question\tanswer\n"Hello" he said\tHi.\n"\ta quote\n5" pipe\tc\n'
    assert cells(written(tmp_path, "rows.tsv", body)) == [
        ['"Hello" he said', "Hi."],
        ['"', "a quote"],
        ['5" pipe', "c"],
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a", "the row has 1 cell, the header 2"),
        ("a,b,c", "the row has 3 cells, the header 2"),
        ('"a "b" c",d', "goes on after its closing quote"),
        ('"He said \\"hi\\"",d', "goes on after its closing quote"),
        (b"caf\xe9 \xe6\xbc\xa2\xe5\xad\x97,b", "byte 0xe9 is not UTF-8"),
        ("a,b\rc,d", "holds a carriage return"),
        pytest.param(b"x" * (MAX_ROW_BYTES + 1), "longer than 16 MiB", id="too long"),
    ],
)
def test_a_broken_row_is_rejected_with_its_line_and_the_others_are_read(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    broken = line.encode() if isinstance(line, str) else line
    body = b'question,answer\n"two\nlines",b\n' + broken + "\n漢字漢字,d\n".encode()
    path = written(tmp_path, "rows.csv", body)
    found, rejected = split(path)
    assert [row.row for row in found] == [2, 5]
    assert [(row.source, row.row) for row in rejected] == [(str(path), 4)]
    assert reason in rejected[0].reason


def test_the_rest_of_a_broken_cell_is_not_taken_for_a_row(tmp_path: Path) -> None:
    body = 'question,answer\n"para\none "two" x\nthree, four",b\nc,d\n'
    found, rejected = split(written(tmp_path, "rows.csv", body))
    assert [row.row for row in found] == [5]
    assert [row.row for row in rejected] == [2, 4]
    assert "counterpart" in rejected[1].reason


def test_a_last_row_that_is_cut_off_is_said_to_be(tmp_path: Path) -> None:
    found, rejected = split(written(tmp_path, "rows.csv", PLAIN + '"What'))
    assert found == PLAIN_ROWS
    assert [row.row for row in rejected] == [4]
    assert "cut off" in rejected[0].reason


@pytest.mark.parametrize("rows_below", [1, MAX_ROW_BYTES // 1000])
def test_a_quote_that_swallows_rows_refuses_the_file(tmp_path: Path, rows_below: int) -> None:
    path = written(
        tmp_path,
        "rows.csv",
        PLAIN.encode() + b'"open,b\n' + (b"a," + b"b" * 1000 + b"\n") * rows_below,
    )
    with pytest.raises(InvalidFileError, match=r"line 4 of .* never closed") as error:
        list(rows(path))
    assert error.value.code == "unclosed_quote"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("question,answer, question ", "duplicate_columns"),
        ('"question,answer', "invalid_header"),
        pytest.param("x" * (2 * 1024 * 1024), "invalid_header", id="too long"),
        ("漢字漢字,\udcff", "invalid_header"),
    ],
)
def test_a_header_that_names_no_columns_refuses_the_file(
    tmp_path: Path, header: str, code: str
) -> None:
    path = written(tmp_path, "rows.csv", header.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidFileError) as error:
        list(rows(path))
    assert error.value.code == code


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "notes.txt", "notes.md", "rows.jsonl"])
@pytest.mark.parametrize("body", ["", "\n \n", "\ufeff"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str, body: str) -> None:
    assert list(rows(written(tmp_path, name, body))) == []


def test_a_table_of_nothing_but_a_header_has_no_rows(tmp_path: Path) -> None:
    assert list(rows(written(tmp_path, "rows.csv", "question,answer"))) == []


def as_csv(records: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(records)
    return out.getvalue()


def test_json_in_the_columns_of_conversations_is_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": 'Say "hi",\nplease'}]
    table = [
        ["messages", "chosen", "prompt", "note"],
        [json.dumps(turns), json.dumps(turns[0]), "[not json", json.dumps(turns)],
    ]
    assert cells(written(tmp_path, "rows.csv", as_csv(table))) == [
        [turns, turns[0], "[not json", json.dumps(turns)]
    ]


@pytest.mark.parametrize("answer", ['{"name": "Ada"}', '["a", "b"]', '[{"name": "Ada"}]', "[]"])
def test_an_answer_that_is_json_stays_the_text_it_is(tmp_path: Path, answer: str) -> None:
    table = [["prompt", "completion"], ["Who?", answer]]
    assert cells(written(tmp_path, "rows.csv", as_csv(table))) == [["Who?", answer]]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[{'role': 'user'}]", "the cell messages does not hold JSON: invalid JSON at character 3"),
        pytest.param("[" * 100_000, "nested more than 64 deep", id="deep"),
        ('[{"a": 1, "a": 2}]', "the key 'a' occurs twice"),
    ],
)
def test_a_conversation_that_is_broken_json_rejects_its_row(
    tmp_path: Path, cell: str, reason: str
) -> None:
    path = written(tmp_path, "rows.csv", as_csv([["messages"], [cell], ["[]"]]))
    found, rejected = split(path)
    assert [row.fields for row in found] == [{"messages": []}]
    assert reason in rejected[0].reason


def test_windows_1252_is_read_as_such(tmp_path: Path) -> None:
    text = "question,answer\nWhere’s the café?,“Là-bas”: 5 €\n"
    path = written(tmp_path, "rows.csv", text.encode("cp1252"))
    assert layout_of(path).encoding == "cp1252"
    assert cells(path) == [["Where’s the café?", "“Là-bas”: 5 €"]]


@pytest.mark.parametrize("encoding", ["cp1251", "shift-jis", "gb18030"])
def test_another_code_page_is_refused_rather_than_guessed(tmp_path: Path, encoding: str) -> None:
    text = "Привет, мир" if encoding == "cp1251" else "漢字漢字漢字"
    path = written(tmp_path, "rows.csv", f"question,answer\n{text * 3},b\n".encode(encoding))
    with pytest.raises(InvalidFileError, match="an encoding that cannot be told") as error:
        list(rows(path))
    assert error.value.code == "unknown_encoding"


def test_a_line_of_50_megabytes_is_rejected_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("wb") as file:
        file.write(PLAIN.encode() + b'"' + b"x, " * 16_700_000 + b'",y\nc,d\n')
    tracemalloc.start()
    try:
        found, rejected = split(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row.row for row in found] == [2, 3, 5]
    assert [(row.row, row.reason) for row in rejected] == [(4, "the row is longer than 16 MiB")]
    assert peak < 4 * MAX_ROW_BYTES


def test_a_truncated_zstandard_archive_is_refused(tmp_path: Path) -> None:
    body = packed(PLAIN.encode() * 1000, ".zst")
    path = written(tmp_path, "rows.csv.zst", body[:-3])
    with pytest.raises(InvalidFileError, match="Zstandard stream") as error:
        list(rows(path))
    assert error.value.code == "damaged_zstd"


def test_two_zstandard_frames_in_a_row_are_one_file(tmp_path: Path) -> None:
    body = packed(PLAIN.encode(), ".zst") + packed(b"c,d\n", ".zst")
    assert len(cells(written(tmp_path, "rows.csv.zst", body))) == 3


TABLE = st.lists(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
        min_size=3,
        max_size=3,
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(
    body=TABLE,
    delimiter=st.sampled_from(",\t;|"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    body: list[list[str]],
    delimiter: str,
    end: str,
    encoding: str,
) -> None:
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([["question", "answer", "input"], *body])
    assert cells(path) == body


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), name=st.sampled_from(["a.csv", "a.tsv", "a.txt", "a.md", "a"]))
def test_no_bytes_at_all_end_in_anything_but_rows_reasons_and_refusals(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, name: str
) -> None:
    path = written(tmp_path_factory.mktemp("noise"), name, body)
    try:
        items = list(rows(path))
    except InvalidFileError:
        return
    numbers = [item.row for item in items]
    assert numbers == sorted(set(numbers))
    assert all(item.reason.isprintable() for item in items if isinstance(item, Rejection))


@pytest.mark.parametrize("name", ["notes.txt", "notes.md", "notes.md.gz"])
def test_a_short_text_is_one_row(tmp_path: Path, name: str) -> None:
    text = "# Title\n\nOne, two.\r\nThree\n\n\n- four\n"
    path = written(tmp_path, name, packed(text.encode(), ".gz" if name.endswith("gz") else ""))
    assert container_of(path).startswith("txt")
    assert list(rows(path)) == [Row(1, {"text": "# Title\n\nOne, two.\nThree\n\n\n- four"})]


@pytest.mark.parametrize("text", ["[a link](http://x) and more\n", "{braces} in prose\n"])
def test_prose_that_begins_with_a_bracket_is_no_json(tmp_path: Path, text: str) -> None:
    assert list(rows(written(tmp_path, "notes.md", text))) == [Row(1, {"text": text.strip()})]


def test_a_long_text_is_cut_between_paragraphs_and_before_headings(tmp_path: Path) -> None:
    paragraph = "word " * 400
    text = "".join(f"## Part {number}\n\n{paragraph}\n\n" for number in range(20))
    found, rejected = split(written(tmp_path, "book.md", text))
    assert rejected == []
    assert len(found) > 1
    passages = [row.fields["text"] for row in found]
    assert all(passage.startswith("## Part") for passage in passages)
    assert "\n\n".join(passages).split() == text.split()
    lines = text.split("\n")
    assert all(lines[row.row - 1] == row.fields["text"].split("\n")[0] for row in found)
    assert max(map(len, passages)) < PASSAGE_CHARACTERS + 2 * len(paragraph)


def test_a_text_without_blank_lines_is_cut_between_lines(tmp_path: Path) -> None:
    text = "A sentence of some words on a line.\n" * 5000
    found, _ = split(written(tmp_path, "lines.txt", text))
    assert "\n".join(row.fields["text"] for row in found) == text.strip()
    assert max(len(row.fields["text"]) for row in found) <= MOST_CHARACTERS + 40


def test_a_line_of_a_text_that_is_too_long_costs_itself_only(tmp_path: Path) -> None:
    body = b"before\n" + b"x" * (MAX_ROW_BYTES + 5) + b"\nafter\n"
    found, rejected = split(written(tmp_path, "notes.txt", body))
    assert [(row.row, row.fields["text"]) for row in found] == [(1, "before"), (3, "after")]
    assert [row.row for row in rejected] == [2]


def test_a_passage_that_is_not_utf8_is_rejected_by_its_line(tmp_path: Path) -> None:
    body = "漢字".encode() + b" \xff"
    assert split(written(tmp_path, "notes.txt", body))[1] == [
        Rejection(str(tmp_path / "notes.txt"), 1, "byte 0xff is not UTF-8")
    ]


def test_places_are_called_by_what_they_count() -> None:
    assert [place_word(kind) for kind in ("jsonl.gz", "csv", "txt", "json", "parquet")] == [
        *("line", "line", "line", "item", "row")
    ]
