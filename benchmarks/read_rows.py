"""Rows of data files: ours against `datasets` (streaming) and against bare parsing.

Every arm is a process of its own and reads the same file: chat rows of about 1 kB. "first 50" is
the time from the call to the fiftieth row, imports left out. "peak" is the memory that reading
added to what the imports took.
"""

import argparse
import csv
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import describe, load_now, mebibytes, peak_bytes, table

_FIRST = 50
_KINDS = ("jsonl", "json", "jsonl.gz", "csv", "parquet")
_LOADERS = {"jsonl": "json", "json": "json", "jsonl.gz": "json", "csv": "csv", "parquet": "parquet"}


def _chat(number: int) -> dict[str, Any]:
    question = f"Question {number}: what does item {number * 7919 % 10007} mean? " + "why " * 60
    answer = f'Answer {number}: "it" depends.\n' + "because of the facts " * 30
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "id": f"row-{number}"}


def _write(path: Path, kind: str, rows: int) -> None:
    if kind == "parquet":
        _write_parquet(path, rows)
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "answer", "id"])
            for row in map(_chat, range(rows)):
                writer.writerow([*(turn["content"] for turn in row["messages"]), row["id"]])
    elif kind == "json":
        with path.open("w", encoding="utf-8") as file:
            for number in range(rows):
                file.write(("[" if number == 0 else ",\n") + json.dumps(_chat(number)))
            file.write("]\n")
    else:
        with gzip.open(path, "wt", 1) if kind.endswith("gz") else path.open("w") as file:
            for number in range(rows):
                file.write(json.dumps(_chat(number)) + "\n")


def _write_parquet(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.Table.from_pylist([_chat(0)]).schema
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            chunk = [_chat(number) for number in range(start, min(start + 10_000, rows))]
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def _ours(path: Path, kind: str) -> Callable[[], Iterator[Any]]:
    from llamaforge.data.containers import rows

    if kind == "parquet":
        import pyarrow.parquet  # noqa: F401
    return lambda: rows(path)


def _datasets(path: Path, kind: str) -> Callable[[], Iterator[Any]]:
    import datasets

    def read() -> Iterator[Any]:
        loader = _LOADERS[kind]
        found = datasets.load_dataset(loader, data_files=str(path), split="train", streaming=True)
        return iter(found)

    return read


def _bare(path: Path, kind: str) -> Callable[[], Iterator[Any]]:
    """Return what a script of a few lines would do."""

    def lines() -> Iterator[Any]:
        with gzip.open(path, "rb") if kind.endswith("gz") else path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def cells() -> Iterator[Any]:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    def whole() -> Iterator[Any]:
        return iter(json.loads(path.read_bytes()))

    def batches() -> Iterator[Any]:
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()

    return {"csv": cells, "json": whole, "parquet": batches}.get(kind, lines)


_ARMS = {"llamaforge": _ours, "datasets, streaming": _datasets, "bare parsing": _bare}


def _measure(arm: str, path: Path, kind: str) -> dict[str, float]:
    """Read `path` once for its first rows and once to the end; in a process of its own."""
    read = _ARMS[arm](path, kind)
    before = peak_bytes()
    started = time.perf_counter()
    first = sum(1 for _ in islice(read(), _FIRST))
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    rows = sum(1 for _ in read())
    return {
        "first": first,
        "first_s": first_s,
        "rows": rows,
        "all_s": time.perf_counter() - started,
        "peak": peak_bytes() - before,
    }


def _in_process(arm: str, path: Path, kind: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--arm", arm, "--file", str(path), "--kind", kind]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _compare(kind: str, path: Path, rounds: int) -> list[tuple[str, ...]]:
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in _ARMS}
    for _ in range(rounds):  # arms take turns, so that other work falls on all of them
        for arm in _ARMS:
            found[arm].append(_in_process(arm, path, kind))
    counts = {int(result["rows"]) for results in found.values() for result in results}
    assert len(counts) == 1, counts
    rows = counts.pop()
    ours = statistics.median(result["all_s"] for result in found["llamaforge"])
    lines: list[tuple[str, ...]] = []
    for arm, results in found.items():
        seconds = statistics.median(result["all_s"] for result in results)
        first = statistics.median(result["first_s"] for result in results)
        lines.append(
            (
                f"{kind}: {arm}",
                f"{first * 1000:,.0f}",
                f"{rows / seconds:,.0f}",
                f"{path.stat().st_size / seconds / 1e6:,.0f}",
                "" if arm == "llamaforge" else f"{seconds / ours:.2f}×",
                mebibytes(int(max(result["peak"] for result in results))),
            )
        )
    return lines


def main() -> None:
    """Make the files, measure every arm on each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS)
    parser.add_argument("--arm", choices=_ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=_KINDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm:
        print(json.dumps(_measure(asked.arm, asked.file, asked.kind)))
        return
    rows, rounds = (asked.rows // 10, 1) if asked.quick else (asked.rows, 3)
    load = load_now()
    lines = []
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.kinds:
            path = Path(folder) / f"rows.{kind}"
            _write(path, kind, rows)
            sizes.append(f"{kind} {path.stat().st_size / 1e6:,.0f} MB")
            lines += _compare(kind, path, rounds)
            path.unlink()
    print(describe(["datasets", "pyarrow"]))
    print(f"{rows:,} rows; {', '.join(sizes)}; {rounds} rounds, load before {load:.1f}\n")
    head = ("file: reader", "first 50, ms", "rows/s", "MB/s", "ours is faster by", "peak MiB")
    print(table(head, lines))


if __name__ == "__main__":
    main()
