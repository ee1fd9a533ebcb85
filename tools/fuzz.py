"""Lists stores that are damaged at random, for as long as asked; says every case that goes wrong.

Wrong is: an exception, more than 2 seconds, or 200 MB more memory than before. A case that went
wrong is kept as a folder, and the same seed makes it again.

Usage: python -m tools.fuzz [--seconds N] [--seed N] [--keep DIR]
"""

import argparse
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.inventory import Inventory
from llamaforge.cli.models import make_lister, model_json
from llamaforge.errors import ExitCode
from tests.unit.catalog.store_builder import Gguf, StoreBuilder

MAX_SECONDS: Final = 2.0
MAX_BYTES: Final = 200 * 1024 * 1024
_KINDS: Final = (
    "model", "projector", "adapter", "draft", "template", "prompt", "system", "params",
    "messages", "license", "embed", "tensor", "json", "", "\x1b[2J",
)  # fmt: skip
_NUMBERS: Final = (0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
_TEXTS: Final = (
    "", "a", "../../etc/passwd", "\x00", "\ud800", "\x1b]0;x\x07", "sha256:", "sha256:" + "a" * 64,
    "sha256-" + "A" * 64, "sha256:../" + "a" * 61, "é" * 1000, "x" * 200_000, "NaN",
)  # fmt: skip


def main() -> ExitCode:
    """Run cases until the time is up, and say how many went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    # Neither the index of blobs nor the choices of the person who runs this have a part in it.
    os.environ["LLAMAFORGE_HOME"] = tempfile.mkdtemp(prefix="fuzz-home-")
    until = time.monotonic() + options.seconds
    cases = failures = 0
    slowest = 0.0
    while not cases or (time.monotonic() < until and options.seed is None):
        seed = first + cases
        seconds, wrong = run_case(seed, options.keep)
        slowest = max(slowest, seconds)
        cases += 1
        if wrong:
            failures += 1
            print(f"seed {seed}: {wrong}", file=sys.stderr)
    print(f"{cases:,} cases from seed {first}, {failures} wrong; the slowest took {slowest:.2f} s")
    return ExitCode.FAILED if failures else ExitCode.DONE


def run_case(seed: int, keep: Path) -> tuple[float, str]:
    """Make and list the store of `seed`; return the seconds, and what went wrong or nothing."""
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    wrong = ""
    try:
        builder = StoreBuilder(folder / "store")
        for number in range(chance.randint(1, 4)):
            _add(builder, chance, number)
        before = _peak_bytes()
        began = time.monotonic()
        try:
            inventory = Inventory.open([builder.root])
            lister = make_lister(inventory)
            for model in inventory.models():
                json.dumps(model_json(lister.join(model)), allow_nan=False)
        except Exception as error:  # whatever it is, it is what is looked for here
            wrong = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - began
        if seconds > MAX_SECONDS:
            wrong = wrong or f"it took {seconds:.1f} s"
        if _peak_bytes() - before > MAX_BYTES:
            wrong = wrong or f"it took {(_peak_bytes() - before) >> 20} MiB"
        if wrong:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, keep / str(seed), symlinks=True, dirs_exist_ok=True)
        return seconds, wrong
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _add(builder: StoreBuilder, chance: random.Random, number: int) -> None:
    data = Gguf().bytes()
    if chance.random() < 0.7:
        data = _damaged_header(data, chance)
    layers = [(chance.choice(_KINDS), _content(chance)) for _ in range(chance.randint(0, 6))]
    name = f"m{number}:x"
    body: Any = builder.add(name, data, config=_value(chance, 3), layers=layers)
    if chance.random() < 0.5:
        body = _damaged_value(body, chance)
    raw = json.dumps(body).encode()
    if chance.random() < 0.3:
        raw = _damaged_bytes(raw, chance)
    if chance.random() < 0.05:
        raw = chance.choice([b"[" * 5_000_000, raw + b" " * 10_000_000, b'{"a":' * 200_000])
    builder.write_manifest(name, raw)
    if chance.random() < 0.1:
        path = builder.manifest_path(name)
        path.unlink()
        path.symlink_to(chance.choice(["/etc/passwd", "/dev/zero", str(path), ".."]))


def _content(chance: random.Random) -> bytes:
    choices: list[Callable[[], bytes]] = [
        lambda: json.dumps(_value(chance, 4)).encode(),
        lambda: chance.choice(_TEXTS).encode("utf-8", "surrogatepass"),
        lambda: chance.randbytes(chance.randint(0, 2000)),
        lambda: b"[" * 100_000,
        lambda: b"x" * 2_000_000,
    ]
    return chance.choices(choices, weights=(5, 5, 5, 1, 1))[0]()


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(7 if depth else 5)
    if kind == 0:
        return chance.choice(_NUMBERS) * chance.choice((1, -1))
    if kind == 1:
        return chance.choice((None, True, False, 1.5, -1e308))
    if kind <= 4:
        return chance.choice(_TEXTS[:-2])
    if kind == 5:
        return [_value(chance, depth - 1) for _ in range(chance.randint(0, 4))]
    keys = ("model_family", "capabilities", "remote_host", "file_type", "context_length", "a")
    return {chance.choice(keys): _value(chance, depth - 1) for _ in range(chance.randint(0, 4))}


def _damaged_value(value: Any, chance: random.Random) -> Any:
    """Return `value` with one place in it exchanged."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        return value | {key: _damaged_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        return [*value[:place], _damaged_value(value[place], chance), *value[place + 1 :]]
    return _value(chance, 2)


def _damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    match chance.randrange(3):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + chance.randbytes(chance.randint(1, 8)) + data[place + 1 :]
        case _:
            return data + data[place:]


def _damaged_header(data: bytes, chance: random.Random) -> bytes:
    """Return a GGUF file with counts, lengths, types and offsets that lie."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(4, min(len(changed) - 8, 2_000))
        form = chance.choice(("<Q", "<I", "<B"))
        most = 2 ** (8 * struct.calcsize(form)) - 1
        struct.pack_into(form, changed, place, min(chance.choice(_NUMBERS), most))
    return _damaged_bytes(bytes(changed), chance) if chance.random() < 0.2 else bytes(changed)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
