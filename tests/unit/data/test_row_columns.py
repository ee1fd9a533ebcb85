"""Parquet and Arrow files give the rows that were put into them, as JSON would hold them."""

import datetime
import decimal
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data import columns
from llamaforge.data.check import Division, collect
from llamaforge.data.containers import MAX_ROW_BYTES, Row, container_of, rows
from llamaforge.data.records import Rejection
from llamaforge.data.snapshot import SourceFile
from llamaforge.errors import InvalidFileError

TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello <b>\x1b."}]
Writer = Callable[[Any, Path], None]


def parquet(table: Any, path: Path) -> None:
    pq.write_table(table, path, row_group_size=7)


def arrow_file(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def arrow_stream(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


WRITERS = pytest.mark.parametrize("write", [parquet, arrow_file, arrow_stream])


def fields(path: Path) -> list[dict[str, Any]]:
    items = list(rows(path))
    assert [item.row for item in items] == list(range(1, len(items) + 1))
    assert not [item for item in items if isinstance(item, Rejection)]
    return [item.fields for item in items if isinstance(item, Row)]


@WRITERS
def test_lists_structs_and_nulls_become_plain_values(tmp_path: Path, write: Writer) -> None:
    values: list[dict[str, Any]] = [
        {"messages": TURNS, "meta": {"tags": ["a", None], "n": 1}, "ok": True, "score": 0.5},
        {"messages": None, "meta": None, "ok": None, "score": None},
        {"messages": [], "meta": {"tags": [], "n": -(2**62)}, "ok": False, "score": float("nan")},
    ]
    path = tmp_path / "rows.bin"
    write(pa.Table.from_pylist(values * 20), path)
    assert container_of(path) == ("parquet" if write is parquet else "arrow")
    values[2]["score"] = None
    assert fields(path) == values * 20


@WRITERS
def test_times_and_decimals_become_texts_at_any_depth(tmp_path: Path, write: Writer) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "at": pa.array([moment, None], pa.timestamp("ns", "UTC")),
            "day": [moment.date(), None],
            "time": pa.array([moment.time(), None], pa.time64("us")),
            "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(6, 2)),
            "deep": [[{"day": moment.date(), "n": 1}], [None]],
        }
    )
    path = tmp_path / "rows.parquet"
    write(table, path)
    first, second = fields(path)
    assert first == {
        "at": "2024-05-06 07:08:09.000000000Z",
        "day": "2024-05-06",
        "time": "07:08:09.000000",
        "price": "1.50",
        "deep": [{"day": "2024-05-06", "n": 1}],
    }
    assert second == {"at": None, "day": None, "time": None, "price": None, "deep": [None]}


@WRITERS
def test_categories_maps_and_fixed_lists_are_read(tmp_path: Path, write: Writer) -> None:
    table = pa.table(
        {
            "kind": pa.array(["x", "y", None]).dictionary_encode(),
            "map": pa.array([[("a", 1.5)], [], None], pa.map_(pa.string(), pa.float64())),
            "pair": pa.array([[1, 2], [3, 4], None], pa.list_(pa.int32(), 2)),
        }
    )
    path = tmp_path / "rows"
    write(table, path)
    assert fields(path) == [
        {"kind": "x", "map": {"a": 1.5}, "pair": [1, 2]},
        {"kind": "y", "map": {}, "pair": [3, 4]},
        {"kind": None, "map": None, "pair": None},
    ]


@WRITERS
def test_conversations_as_json_text_or_as_lists_by_key_are_read(
    tmp_path: Path, write: Writer
) -> None:
    by_key = {"from": ["human", "gpt"], "value": ["Hi.", "Hello."]}
    table = pa.table({"messages": ['[{"role": "user"}]'], "conversations": [by_key]})
    path = tmp_path / "rows"
    write(table, path)
    assert fields(path) == [
        {
            "messages": [{"role": "user"}],
            "conversations": [
                {"from": "human", "value": "Hi."},
                {"from": "gpt", "value": "Hello."},
            ],
        }
    ]


@WRITERS
@pytest.mark.parametrize(
    ("column", "code", "words"),
    [
        (pa.array([b"\x89PNG"]), "binary_column", "holds bytes"),
        (pa.array([[{"bytes": b"x", "path": "p"}]]), "binary_column", "holds bytes"),
        (pa.array([datetime.timedelta(1)]), "unsupported_column", "values of the type duration"),
        (
            pa.array([[(1, "a")]], pa.map_(pa.int64(), pa.string())),
            "unsupported_column",
            "maps whose keys are no texts",
        ),
    ],
)
def test_a_column_that_no_text_model_can_use_refuses_the_file(
    tmp_path: Path, write: Writer, column: Any, code: str, words: str
) -> None:
    path = tmp_path / "rows.parquet"
    write(pa.table({"text": ["a"], "im\x1bage": column}), path)
    with pytest.raises(InvalidFileError, match=words) as error:
        list(rows(path))
    assert error.value.code == code
    assert error.value.message.isprintable()


def test_an_infinite_number_rejects_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet(pa.table({"text": ["a", "b"], "n": [float("inf"), 1.0]}), path)
    assert list(rows(path)) == [
        Rejection(str(path), 1, "a number is infinite"),
        Row(2, {"text": "b", "n": 1.0}),
    ]


def test_a_row_that_is_too_large_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet(pa.table({"text": ["a", "x" * (MAX_ROW_BYTES + 1), "c"]}), path)
    assert list(rows(path)) == [
        Row(1, {"text": "a"}),
        Rejection(str(path), 2, "the row is longer than 16 MiB"),
        Row(3, {"text": "c"}),
    ]


def test_text_in_parquet_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    parquet(pa.table({"text": broken}), path)
    assert list(rows(path)) == [
        Row(1, {"text": "a"}),
        Rejection(str(path), 2, "a text is not UTF-8"),
        Row(3, {"text": "c"}),
    ]


@WRITERS
def test_a_file_without_rows_has_none(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "rows"
    write(pa.table({"text": pa.array([], pa.string())}), path)
    assert list(rows(path)) == []


@WRITERS
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, write: Writer, kept: float) -> None:
    path = tmp_path / "rows"
    write(pa.table({"text": [f"row {number} " * 40 for number in range(20)]}), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InvalidFileError, match="is damaged") as error:
        list(rows(path))
    assert error.value.code == ("damaged_parquet" if write is parquet else "damaged_arrow")


@settings(max_examples=150, deadline=None)
@given(
    write=st.sampled_from([parquet, arrow_file, arrow_stream]),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_anywhere_ends_in_rows_reasons_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, write: Writer, damage: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "rows"
    write(pa.table({"messages": [TURNS, None, TURNS], "note": ["a", None, "c"]}), path)
    body = bytearray(path.read_bytes())
    for place, value in damage:
        body[8 + int(place * (len(body) - 8))] = value
    path.write_bytes(body)
    try:
        items = list(rows(path))
    except InvalidFileError:
        return
    assert all(item.reason.isprintable() for item in items if isinstance(item, Rejection))


def test_a_name_that_is_no_unicode_can_be_read(tmp_path: Path) -> None:
    for write in (parquet, arrow_file):
        plain = tmp_path / "plain"
        write(pa.table({"text": ["a"]}), plain)
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
        plain.replace(path)
        assert fields(path) == [{"text": "a"}]


def test_a_row_group_is_never_turned_into_rows_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [f"{n}" * 3000 for n in range(2000)]}), path)
    sizes: list[int] = []
    real = columns._values

    def noted(part: Any) -> list[list[Any]]:
        sizes.append(part.nbytes)
        return real(part)

    monkeypatch.setattr(columns, "_values", noted)
    found = rows(path)
    assert next(found).row == 1
    assert len(sizes) == 1
    assert sum(1 for _ in found) == 1999
    assert max(sizes) <= 8 * 1024 * 1024


@WRITERS
def test_the_snapshot_names_the_container_of_each_source(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "rows"
    write(pa.table({"question": ["a", "b", "c"], "answer": ["1", "2", "3"]}), path)
    text = tmp_path / "rows.csv"
    text.write_text("question,answer\nd,e\n", encoding="utf-8")
    found = collect([path, text], max_rejected_fraction=0.0, division=Division(0.0))
    assert found.counts.accepted == 4
    assert all(isinstance(source, SourceFile) for source in found.sources)
    assert [source.container for source in found.sources] == [container_of(path), "csv"]
