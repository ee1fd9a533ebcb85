"""Rows analysed before training: ours against the same steps done with `datasets.map`.

Usage: python benchmarks/check_rows.py [--quick]

Both sides read the same generated JSON Lines file and do the same work in one process: exact and
near duplicates (128 permutations of 5-grams, threshold 0.8), conflicts, secrets and personal data,
flags, and lengths by the same counter. The peer does it as it is usually written: `map` with a
function of a row, datasketch's `MinHash` and `MinHashLSH`. What a pattern finds and what a flag
means is our code on both sides, so that the difference is how rows are carried and compared.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import describe, load_now, mebibytes, peak_bytes, table, verdict
from llamaforge.data.records import Message, Record, prompt_key, record_id

_ROWS: Final = 100_000
_QUICK_ROWS: Final = 10_000
_SECONDS_AIM, _MEMORY_AIM_MIB = 60.0, 1_024
_NEAR_EVERY, _EXACT_EVERY, _SECRET_EVERY = 20, 50, 1_000
_SIDES: Final = {"peer": "datasets.map + datasketch", "ours": "llamaforge.data.analysis"}


def _write_rows(path: Path, count: int) -> None:
    """Write conversations of 60 to 300 words; some repeat, nearly repeat, or hold a secret."""
    chance = random.Random(1)
    everyday = ["the", "of", "and", "to", "in", "is", "that", "it", "for", "was", "on", "with"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    rare = ["".join(chance.choices(letters, k=chance.randint(3, 10))) for _ in range(20_000)]
    earlier: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = [
                chance.choice(everyday) if chance.random() < 0.45 else chance.choice(rare)
                for _ in range(chance.randint(50, 280))
            ]
            question = f"{number}: {' '.join(chance.choices(rare, k=12))}?"
            answer = (
                ". ".join(
                    " ".join(words[start : start + 12]).capitalize()
                    for start in range(0, len(words), 12)
                )
                + "."
            )
            if earlier and number % _EXACT_EVERY == 0:
                line = chance.choice(earlier)
            elif earlier and number % _NEAR_EVERY == 0:
                row = json.loads(chance.choice(earlier))
                row["messages"][1]["content"] += " Or so it seems."
                line = json.dumps(row)
            else:
                if number % _SECRET_EVERY == 1:
                    secret = "".join(chance.choices(letters.upper() + letters + "123456789", k=36))
                    answer += f" Use ghp_{secret} or write to {rare[number % 99]}@posteo.de."
                turns = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
                line = json.dumps({"messages": turns})
                if len(earlier) < 5_000:
                    earlier.append(line)
            file.write(line + "\n")


def _count_tokens(text: str) -> int:
    """Stand in for a tokenizer, whose own time would be the same on both sides."""
    return len(text) // 4


def _record(row: dict[str, Any], number: int) -> Record:
    turns = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
    return Record(record_id(turns), "rows.jsonl", number, turns)


def _ours(path: Path) -> dict[str, int]:
    from llamaforge.data.analysis import analyse
    from llamaforge.data.lengths import by_text

    def rows() -> Iterator[Record]:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield _record(json.loads(line), number)

    found = analyse(rows(), measure=by_text(_count_tokens))
    assert found.lengths is not None
    return {
        "exact": found.duplicates.exact,
        "near": found.duplicates.near,
        "secrets": found.privacy.secret_rows,
        "personal": found.privacy.personal_rows,
        "p99": found.lengths.p99,
    }


def _peer(path: Path) -> dict[str, int]:
    import datasets
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    from llamaforge.data.flags import row_flags
    from llamaforge.data.languages import language_of
    from llamaforge.data.lengths import by_text
    from llamaforge.data.privacy import find_private
    from llamaforge.data.row_refs import answer_of, question_of

    datasets.disable_progress_bars()
    measure = by_text(_count_tokens)
    base = MinHash(num_perm=128)

    def look(row: dict[str, Any], number: int) -> dict[str, Any]:
        record = _record(row, number)
        text = "\n\n".join(turn.content for turn in record.messages)
        spans = find_private(text)
        words = text.lower().split()
        grams = {" ".join(words[at : at + 5]).encode() for at in range(max(len(words) - 4, 1))}
        sketch = base.copy()
        sketch.update_batch(grams)
        return {
            "id": record.id,
            "prompt": prompt_key(record.messages),
            "secret": any(span.secret for span in spans),
            "personal": any(not span.secret for span in spans),
            "flags": row_flags(record),
            "language": language_of(answer_of(record)),
            "asked": language_of(question_of(record)),
            "tokens": measure(record).tokens,
            "sketch": sketch.hashvalues,
        }

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset(
            "json", data_files=str(path), split="train", cache_dir=cache
        ).map(look, with_indices=True)
        index = MinHashLSH(threshold=0.8, num_perm=128)
        seen: set[str] = set()
        exact = near = 0
        for number, (row_id, values) in enumerate(zip(rows["id"], rows["sketch"], strict=True)):
            if row_id in seen:
                exact += 1
                continue
            seen.add(row_id)
            sketch = MinHash(hashvalues=np.array(values, np.uint32), scheme="affine32")
            near += bool(index.query(sketch))
            index.insert(number, sketch)
        assert Counter(rows["prompt"])
        return {
            "exact": exact,
            "near": near,
            "secrets": sum(rows["secret"]),
            "personal": sum(rows["personal"]),
            "p99": int(np.percentile(rows["tokens"], 99, method="inverted_cdf")),
        }


def _measured(side: str, path: Path) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    found = _ours(path) if side == "ours" else _peer(path)
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak_bytes(), "found": found}


def _in_a_process(side: str, path: Path) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, __file__, "--side", side, "--file", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    if finished.returncode != 0:
        raise SystemExit(f"{side} failed:\n{finished.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def _compare(count: int, rounds: int) -> str:
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in _SIDES}
    load = load_now()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        _write_rows(path, count)
        size = path.stat().st_size
        for _ in range(rounds):
            for side, found in runs.items():
                found.append(_in_a_process(side, path))
    ours, peer = runs["ours"][0]["found"], runs["peer"][0]["found"]
    for name in ("exact", "secrets", "personal", "p99"):
        if ours[name] != peer[name]:
            raise SystemExit(f"the sides disagree on {name}: {ours[name]} and {peer[name]}")
    middle = statistics.median(run["seconds"] for run in runs["peer"])
    lines = []
    for side, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        peak = max(run["peak_bytes"] for run in found)
        is_ours = side == "ours"
        lines.append(
            (
                _SIDES[side],
                f"{seconds:.1f}",
                f"{statistics.median(run['cpu_seconds'] for run in found):.1f}",
                f"{count / seconds:,.0f}",
                f"{middle / seconds:.1f}×",
                verdict(_SECONDS_AIM * count / _ROWS / seconds, 1.0) if is_ours else "",
                mebibytes(peak),
                verdict(_MEMORY_AIM_MIB / (peak / 2**20), 1.0) if is_ours else "",
                f"{found[0]['found']['exact']:,}",
                f"{found[0]['found']['near']:,}",
                f"{found[0]['found']['secrets']:,}",
            )
        )
    head = (
        "analysis", "s, median", "CPU s", "rows a second", "ratio", "60 s / time of 100 k",
        "peak MiB", "1 GiB / peak", "exact", "near", "secrets",
    )  # fmt: skip
    note = f"{count:,} rows, {size / 1e6:.0f} MB, {rounds} rounds, load before {load:.1f}"
    return f"{note}\n\n{table(head, lines)}"


def main() -> None:
    """Compare, or be one side of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    parser.add_argument("--rounds", type=int, default=1, help="times that each side runs")
    parser.add_argument("--side", choices=list(_SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(_measured(options.side, options.file)))
        return
    print(f"{describe(['datasets', 'datasketch', 'numpy'])}\n", flush=True)
    print(_compare(_QUICK_ROWS if options.quick else _ROWS, options.rounds))


if __name__ == "__main__":
    main()
