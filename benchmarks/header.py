"""Reading a header: ours against gguf-py's GGUFReader, on a file with 152 k tokens.

Usage: python benchmarks/header.py [--quick]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import gguf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import MODEL_100M, describe, load_now, model_file, spread, table, verdict
from llamaforge.gguf.header import read_header

_AIM = 100.0


def main() -> None:
    """Measure, hold both answers against each other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = parser.parse_args().quick
    path = model_file(MODEL_100M)
    rounds, inner = (2, 3) if quick else (5, 10)
    ours: list[float] = []
    peer: list[float] = []
    decoded: list[float] = []
    load = load_now()
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(inner):
            header = read_header(path)
        ours.append((time.perf_counter() - started) / inner)
        started = time.perf_counter()
        tokens = read_header(path).strings("tokenizer.ggml.tokens")
        decoded.append(time.perf_counter() - started)
        started = time.perf_counter()
        reader = gguf.GGUFReader(path)
        peer.append(time.perf_counter() - started)
    assert [item.name for item in reader.tensors] == list(header.tensors)
    assert all(
        header.tensors[item.name].offset == item.data_offset
        and header.tensors[item.name].n_bytes == item.n_bytes
        for item in reader.tensors
    )
    assert reader.fields["tokenizer.ggml.tokens"].contents() == tokens
    middle = statistics.median(peer)
    rows = []
    for name, seconds in (("gguf.GGUFReader", peer), ("read_header", ours)):
        ratio = middle / statistics.median(seconds)
        rows.append(
            (
                name,
                f"{statistics.median(seconds) * 1000:,.1f}",
                f"{ratio:.0f}×",
                verdict(ratio, _AIM) if name == "read_header" else "",
                f"{spread(seconds):.0%}",
            )
        )
    ratio = middle / statistics.median(decoded)
    rows.append(
        (
            "read_header + all tokens decoded",
            f"{statistics.median(decoded) * 1000:,.1f}",
            f"{ratio:.0f}×",
            "",
            f"{spread(decoded):.0%}",
        )
    )
    print(describe(["gguf", "numpy"]))
    print(
        f"{path.stat().st_size / 1e6:.0f} MB, {len(tokens):,} tokens, {len(header.tensors)} "
        f"tensors; {rounds} rounds, load before {load:.1f}\n"
    )
    print(table(("header", "ms, median", "ratio", "aim", "spread"), rows))


if __name__ == "__main__":
    main()
