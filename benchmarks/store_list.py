"""Listing a store of 1,000 models, 100 of them with vocabularies of 150,000 tokens.

Cold is a first look, with nothing kept of an earlier one; warm is every later look. The peer is
`ollama-python`'s way of asking a server, which needs one running and cannot be measured here;
gguf-py's GGUFReader stands in its place, on the same headers.

Usage: python benchmarks/store_list.py [--quick]
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import describe, load_now, table

_MODELS: Final = 1_000
_LARGE: Final = 100
_LARGE_TOKENS: Final = 150_000
_SMALL_TOKENS: Final = 256
_WIDTH: Final = 256
_PLACE: Final = "model-number-000000"
"""A name inside of the header that every copy replaces by its own."""
_IMAGE: Final = "application/vnd.ollama.image."
_LICENSES: Final = ("Apache License\nVersion 2.0, January 2004\n" * 200, "MIT License\n" * 80)

_ONE_LOOK: Final = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from llamaforge.catalog.inventory import Inventory
inventory = Inventory.open([Path(sys.argv[1])])
models = inventory.models()
first = None
for count, model in enumerate(models, 1):
    if count == 20:
        first = time.perf_counter() - started
print(first, time.perf_counter() - started, count)
"""


def make_store(root: Path, models: int, large: int) -> None:
    """Write a store in Ollama's layout, every model with a blob of its own."""
    headers = {True: _header(_LARGE_TOKENS), False: _header(_SMALL_TOKENS)}
    (root / "blobs").mkdir(parents=True)
    every = max(models // max(large, 1), 1)
    for number in range(models):
        is_large = number % every == 0 and number // every < large
        data = headers[is_large].replace(_PLACE.encode(), f"model-number-{number:06}".encode())
        template = b"{{ .System }} {{ .Prompt }} {{ .Tools }}" + bytes([65 + number % 20])
        layers = [
            _blob(root, "model", data),
            _blob(root, "template", template),
            _blob(root, "license", _LICENSES[number % 2].encode()),
            _blob(root, "params", b'{"stop": ["<|im_end|>"]}'),
        ]
        config = {"model_family": "llama", "file_type": "Q4_K_M", "number": number}
        manifest = {
            "schemaVersion": 2,
            "config": _blob(root, "config", json.dumps(config).encode()),
            "layers": layers,
        }
        path = root / f"manifests/registry.ollama.ai/library/family{number // 20}/tag{number % 20}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest), encoding="ascii")


def _blob(root: Path, kind: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    path = root / "blobs" / f"sha256-{digest}"
    if not path.exists():
        path.write_bytes(data)
    return {"mediaType": _IMAGE + kind, "digest": f"sha256:{digest}", "size": len(data)}


def _header(tokens: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name(_PLACE)
        writer.add_block_count(1)
        writer.add_context_length(4096)
        writer.add_embedding_length(_WIDTH)
        writer.add_feed_forward_length(_WIDTH)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_file_type(15)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([f"token{number}" for number in range(tokens)])
        writer.add_token_merges([f"a{number} b{number}" for number in range(tokens)])
        writer.add_token_types([1] * tokens)
        for name in ("token_embd", "blk.0.attn_q", "blk.0.ffn_up", "blk.0.ffn_down"):
            blocks = np.zeros((_WIDTH, 144), dtype=np.uint8)
            kind = gguf.GGMLQuantizationType.Q4_K
            writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _look(store: Path, home: Path) -> tuple[float, float]:
    """Return the seconds to the twentieth row and to the last one, in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-c", _ONE_LOOK, str(store)],
        env=os.environ | {"LLAMAFORGE_HOME": str(home)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert int(answer[2]) == len(list((store / "manifests").glob("*/*/*/*")))
    return float(answer[0]), float(answer[1])


def _peer(store: Path) -> float:
    """Return the seconds that gguf-py would take for the headers of all model blobs.

    It takes minutes for all, so three of each size are read, and their time multiplied.
    """
    blobs: dict[bool, list[Path]] = {True: [], False: []}
    for manifest in sorted((store / "manifests").glob("*/*/*/*")):
        layer = json.loads(manifest.read_text(encoding="ascii"))["layers"][0]
        path = store / "blobs" / layer["digest"].replace(":", "-")
        blobs[layer["size"] > 1_000_000].append(path)
    total = 0.0
    for paths in blobs.values():
        started = time.perf_counter()
        for path in paths[:3]:
            gguf.GGUFReader(path)
        total += (time.perf_counter() - started) / min(3, len(paths)) * len(paths)
    return total


def main() -> None:
    """Make the store, look at it cold and warm, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the models, fewer looks")
    quick = parser.parse_args().quick
    models, large, rounds = (_MODELS // 10, _LARGE // 10, 2) if quick else (_MODELS, _LARGE, 5)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        print(f"making a store of {models:,} models …", file=sys.stderr)
        make_store(store, models, large)
        load = load_now()
        cold = [_look(store, Path(folder) / f"home{number}") for number in range(rounds)]
        warm = [_look(store, Path(folder) / "home0") for _ in range(rounds)]
        peer = _peer(store)
    rows = []
    for name, looks, aims in (("cold", cold, (0.2, None)), ("warm", warm, (0.2, 1.0))):
        for what, place in (("20th row", 0), ("whole list", 1)):
            seconds = statistics.median(look[place] for look in looks)
            aim = aims[place]
            met = "" if aim is None else ("met" if seconds < aim else "missed")
            rows.append(
                (
                    f"{name}, {what}",
                    f"{seconds * 1000:,.0f}",
                    "" if place == 0 else f"{peer / seconds:.0f}×",
                    "" if aim is None else f"under {aim * 1000:,.0f} ms: {met}",
                )
            )
    rows.append(("gguf.GGUFReader, headers alone", f"{peer * 1000:,.0f}", "1×", ""))
    print(describe(("gguf",)))
    print(f"{models:,} models, {large} with {_LARGE_TOKENS:,} tokens; load at the start {load}")
    print(table(("what", "ms", "ratio", "aim"), rows))


if __name__ == "__main__":
    main()
