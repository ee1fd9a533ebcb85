"""Rows of Parquet and Arrow files, read through pyarrow a few at a time.

Lists and structs become lists and dicts, null and a number that is none (pandas' mark for what is
missing) become None, and times, dates and decimals become text. What is read is checked by Arrow
before it is used: offsets in a file may point anywhere.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

from llamaforge.data.json_row import MAX_DEPTH
from llamaforge.data.privacy import masked_line
from llamaforge.data.raw_rows import MAX_ROW_BYTES, TOO_LONG, Row, cell_value
from llamaforge.data.records import Rejection, RowError, source_name
from llamaforge.data.streams import Container
from llamaforge.errors import InvalidFileError
from llamaforge.safe_text import safe_line

_SLICE_BYTES: Final = 4 * 1024 * 1024
"""About what is turned into Python objects at once."""
_MAX_SLICE_ROWS: Final = 256
_READ_BYTES: Final = 1024 * 1024
_TURN_LISTS: Final = frozenset({"messages", "conversations"})

_Convert = Callable[[Any], Any]


def column_rows(path: Path, container: Container) -> Iterator[Row | Rejection]:
    """Yield the rows of the Parquet or Arrow file at `path`, by their position from 1.

    Raises:
        InvalidFileError: the file is damaged or incomplete (`damaged_parquet`, `damaged_arrow`);
            a column holds bytes (`binary_column`) or a type that rows cannot have
            (`unsupported_column`), or its name stands twice (`duplicate_columns`).
        OSError: the system cannot read it.
    """
    import pyarrow  # noqa: PLC0415

    batches = _parquet_batches if container == "parquet" else _arrow_batches
    name = source_name(path)
    number = 0
    try:
        for batch in batches(path):
            for row in _batch_rows(batch, name, number):
                number = row.row
                yield row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidFileError(
            f"{safe_line(name)} is damaged: its {_TITLES[container]} data cannot be read to the"
            f" end ({safe_line(str(error), limit=120)}).",
            "Copy or download the file again.",
            code=f"damaged_{container}",
        ) from error


_TITLES: Final = {"parquet": "Parquet", "arrow": "Arrow"}


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet  # noqa: PLC0415

    with _native(path) as file:
        # Without pre-buffering, and with a buffer, pages are read as they are needed: a row group
        # may be as large as the file.
        parquet = pyarrow.parquet.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
        _require_schema(parquet.schema_arrow, source_name(path))
        rows = max(parquet.metadata.num_rows, 1)
        groups = range(parquet.metadata.num_row_groups)
        size = sum(parquet.metadata.row_group(group).total_byte_size for group in groups)
        yield from parquet.iter_batches(batch_size=_slice_rows(size, rows), use_threads=False)


def _arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow.ipc  # noqa: PLC0415

    # Mapped: a batch may be as large as the file, and only what is looked at is read.
    with _native(path, mapped=True) as file:
        streamed = bytes(file.read(4)) == b"\xff\xff\xff\xff"
        file.seek(0)
        if streamed:
            with pyarrow.ipc.open_stream(file) as reader:
                _require_schema(reader.schema, source_name(path))
                for batch in reader:
                    batch.validate(full=True)
                    yield batch
            return
        with pyarrow.ipc.open_file(file) as reader:
            _require_schema(reader.schema, source_name(path))
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                batch.validate(full=True)
                yield batch


def _native(path: Path, *, mapped: bool = False) -> Any:
    import pyarrow  # noqa: PLC0415

    try:
        place = os.fspath(path)
        place.encode("utf-8")
    except UnicodeEncodeError:  # Arrow takes no names that are not UTF-8
        return pyarrow.PythonFile(path.open("rb"), mode="r")
    return pyarrow.memory_map(place) if mapped else pyarrow.OSFile(place)


def _slice_rows(size: int, rows: int) -> int:
    """Return how many of `rows`, which have `size` bytes in all, make about `_SLICE_BYTES`."""
    return max(1, min(_MAX_SLICE_ROWS, _SLICE_BYTES * rows // max(size, 1)))


def _batch_rows(batch: Any, name: str, before: int) -> Iterator[Row | Rejection]:
    """Yield the rows of one batch; `before` rows came before it."""
    converters = [_converter(field.name, field.type) for field in batch.schema]
    step = _slice_rows(batch.nbytes, batch.num_rows)
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        first = before + start + 1
        if part.nbytes <= MAX_ROW_BYTES:
            try:
                columns = _values(part)
            except UnicodeDecodeError:
                pass  # one row after the other, to find which it is
            else:
                for number, values in enumerate(zip(*columns, strict=True), start=first):
                    yield _row(batch.schema.names, values, converters, name, number)
                continue
        for place in range(part.num_rows):
            yield _single(part.slice(place, 1), converters, name, first + place)


def _single(part: Any, converters: list[_Convert], name: str, number: int) -> Row | Rejection:
    if part.nbytes > MAX_ROW_BYTES:
        return Rejection(name, number, TOO_LONG)
    try:
        values = tuple(column[0] for column in _values(part))
    except UnicodeDecodeError:
        return Rejection(name, number, "a text is not UTF-8")
    return _row(part.schema.names, values, converters, name, number)


def _values(part: Any) -> list[list[Any]]:
    """Return the values of each column as Python objects; times and decimals are texts."""
    found = []
    for column in part.columns:
        target = _plain_type(column.type)
        found.append((column if target == column.type else column.cast(target)).to_pylist())
    return found


def _row(
    names: list[str], values: tuple[Any, ...], converters: list[_Convert], name: str, number: int
) -> Row | Rejection:
    try:
        return Row(
            number,
            {
                column: convert(value)
                for column, value, convert in zip(names, values, converters, strict=True)
            },
        )
    except RowError as error:
        return Rejection(name, number, str(error))


def _require_schema(schema: Any, name: str) -> None:
    """Check that every column holds something that a row can hold."""
    for place, field in enumerate(schema):
        column = masked_line(repr(field.name), limit=60)
        if field.name in schema.names[:place]:
            raise InvalidFileError(
                f"{safe_line(name)} has the column {column} twice.",
                "Give every column a name of its own.",
                code="duplicate_columns",
            )
        problem = _problem(field.type, 0)
        if problem is None:
            continue
        raise InvalidFileError(
            f"The column {column} of {safe_line(name)} holds {problem}, which a language model"
            " cannot be trained on.",
            "Write the file again without this column.",
            code="binary_column" if problem == _BYTES else "unsupported_column",
        )


_BYTES: Final = "bytes (pictures, sound or other binary data)"


def _problem(kind: Any, depth: int) -> str | None:
    """Return what is wrong with a column of this type; none where rows can hold it."""
    import pyarrow.types as t  # noqa: PLC0415

    if depth > MAX_DEPTH:
        return f"lists and structs that are nested more than {MAX_DEPTH} deep"
    if _is_bytes(kind):
        return _BYTES
    if any(test(kind) for test in _unsupported_types()):
        return f"values of the type {safe_line(str(kind), limit=60)}"
    if t.is_map(kind) and not t.is_string(kind.key_type):
        return "maps whose keys are no texts"
    problems = (_problem(part, depth + 1) for part in _parts(kind))
    return next((problem for problem in problems if problem is not None), None)


def _unsupported_types() -> list[Callable[[Any], bool]]:
    import pyarrow.types as t  # noqa: PLC0415

    return [
        *(t.is_union, t.is_interval, t.is_duration, t.is_run_end_encoded),
        *(t.is_list_view, t.is_large_list_view),
    ]


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as t  # noqa: PLC0415

    return bool(
        t.is_binary(kind)
        or t.is_large_binary(kind)
        or t.is_fixed_size_binary(kind)
        or t.is_binary_view(kind)
    )


def _parts(kind: Any) -> list[Any]:
    """Return the types that values of this type are made of."""
    import pyarrow  # noqa: PLC0415
    import pyarrow.types as t  # noqa: PLC0415

    if isinstance(kind, pyarrow.BaseExtensionType):
        return [kind.storage_type]
    if t.is_dictionary(kind):
        return [kind.value_type]
    if t.is_map(kind):
        return [kind.key_type, kind.item_type]
    return [kind.field(place).type for place in range(kind.num_fields)]


def _plain_type(kind: Any) -> Any:
    """Return the type to cast a column to, so that its values are what JSON has."""
    import pyarrow  # noqa: PLC0415
    import pyarrow.types as t  # noqa: PLC0415

    if isinstance(kind, pyarrow.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if t.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if t.is_temporal(kind) or t.is_decimal(kind):
        return pyarrow.string()
    return _plain_nested(kind) if t.is_nested(kind) else kind


def _plain_nested(kind: Any) -> Any:
    import pyarrow  # noqa: PLC0415
    import pyarrow.types as t  # noqa: PLC0415

    if t.is_struct(kind):
        return pyarrow.struct([_plain_field(field) for field in _fields(kind)])
    if t.is_map(kind):
        return pyarrow.map_(kind.key_type, _plain_type(kind.item_type))
    if t.is_fixed_size_list(kind):
        return pyarrow.list_(_plain_field(kind.value_field), kind.list_size)
    make = pyarrow.large_list if t.is_large_list(kind) else pyarrow.list_
    return make(_plain_field(kind.value_field))


def _plain_field(field: Any) -> Any:
    return field.with_type(_plain_type(field.type))


def _converter(column: str, kind: Any) -> _Convert:
    """Return what turns a value that Arrow gives for this column into one that a row holds."""
    import pyarrow.types as t  # noqa: PLC0415

    plain = _plain_type(kind)
    if t.is_string(plain) or t.is_large_string(plain) or t.is_string_view(plain):
        return lambda value: None if value is None else cell_value(column, value)
    tidy = _tidier(plain) or _as_it_is
    if column in _TURN_LISTS and t.is_struct(plain):
        return lambda value: _turns(tidy(value))
    return tidy


def _tidier(kind: Any) -> _Convert | None:
    """Return what tidies values of a plain type: maps as dicts, no numbers that are none.

    For most types there is nothing to do, and none is returned.
    """
    import pyarrow.types as t  # noqa: PLC0415

    if t.is_floating(kind):
        return _number
    if t.is_map(kind):
        item = _tidier(kind.item_type) or _as_it_is
        return _unless_none(lambda pairs: {key: item(value) for key, value in pairs})
    if t.is_struct(kind):
        fields = {field.name: _tidier(field.type) for field in _fields(kind)}
        tidiers = {name: tidy for name, tidy in fields.items() if tidy is not None}
        if not tidiers:
            return None
        return _unless_none(
            lambda struct: struct | {name: tidy(struct[name]) for name, tidy in tidiers.items()}
        )
    if t.is_nested(kind):
        part = _tidier(kind.value_type)
        return None if part is None else _unless_none(lambda values: [part(v) for v in values])
    return None


def _fields(kind: Any) -> list[Any]:
    return [kind.field(place) for place in range(kind.num_fields)]


def _as_it_is(value: Any) -> Any:
    return value


def _unless_none(convert: _Convert) -> _Convert:
    return lambda value: None if value is None else convert(value)


def _number(value: float | None) -> float | None:
    """Return `value`; none where it is no number.

    Raises:
        RowError: it is infinite.
    """
    if value is not None and math.isinf(value):
        raise RowError("a number is infinite")
    return None if value is None or math.isnan(value) else value


def _turns(value: Any) -> Any:
    """Return a conversation that is stored as one list a key as one object a message.

    The `datasets` library stores a `Sequence` of structs like that.
    """
    if not isinstance(value, dict) or not all(isinstance(part, list) for part in value.values()):
        return value
    columns = cast(dict[str, list[Any]], value)
    if len({len(part) for part in columns.values()}) != 1:
        return value
    return [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
