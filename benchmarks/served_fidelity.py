"""Is what llama.cpp serves what was trained? Held-out loss of three ways to serve a fine-tuning.

Usage: python benchmarks/served_fidelity.py [--seeds N] [--epochs N] [--original STEPS]
           [--llama-cpp DIR]

The model is the demo's, which has learned to talk a little; the rows are the demo's too. Ours is
trained on the packed file and served as an adapter over it, and as a merged file. The peer is
PEFT's LoRA on the same weights unpacked to bfloat16, merged, converted and packed as Q4_K_M by
llama.cpp. Each is held against what its own training measured on the same held-out rows. With
`--original` a model of the demo's kind is pre-trained first, so that the peer has weights that
were never packed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import cache_folder, describe, load_now, table, verdict
from benchmarks.peer import llama_cpp_source, peer_export, step
from benchmarks.watch import Watched, watch
from llamaforge import paths
from llamaforge.data.chat import EncodedRow
from llamaforge.evaluation.llama import Server

Array = npt.NDArray[np.float32]
_AIM: Final = 10.0
"""How many times closer to its training ours shall be served, in nats of KL."""
_CONTEXT: Final = 512
_ARMS: Final = Path(__file__).with_name("fidelity_arms.py")


@dataclass(frozen=True)
class Served:
    """One way of serving, held against its training. Means a token, in nats."""

    trained: float
    """Held-out loss in torch, as the training computes."""
    served: float
    """The same in llama.cpp."""
    kl: float
    """KL(trained ‖ served)."""
    size: int
    """Bytes of what is served."""


@dataclass(frozen=True)
class Models:
    """What both sides start from."""

    name: str
    packed: Path
    """Ours: a Q4_K_M file."""
    dense: Path
    """The peer's: a model folder in bfloat16."""


def demo(folder: Path) -> Models:
    """Return the demo's model, and the same weights unpacked into `folder`."""
    trained("dense", blob(), folder)
    return Models("llamaforge-demo, the peer's base unpacked from it", blob(), folder)


def original(steps: int) -> Models:
    """Return a model that is pre-trained here, on first use, and kept."""
    folder = cache_folder() / f"original-{steps}"
    if not (folder / "q4_k_m.gguf").exists():
        print(f"making {folder} …", file=sys.stderr)
        trained("original", folder, folder, "--steps", str(steps))
    name = f"a model of the demo's shape, {steps} steps old, the peer's base never packed"
    return Models(name, folder / "q4_k_m.gguf", folder / "hf")


def blob() -> Path:
    """Return the demo model's file."""
    store = paths.embedded_store()
    manifest = next(path for path in (store / "manifests").rglob("*") if path.is_file())
    layers: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
    digest: str = next(item["digest"] for item in layers if item["mediaType"].endswith(".model"))
    return store / "blobs" / digest.replace(":", "-")


class Judge:
    """Held-out rows, and what files make of them in llama.cpp."""

    def __init__(self, base: Path) -> None:
        from benchmarks.fidelity_arms import rows_of, targets_of
        from llamaforge.gguf.header import read_header

        self.training, self.rows = rows_of(read_header(base))
        self._targets = targets_of
        self._wanted = np.asarray(
            [token for row in self.rows for token in targets_of(row)[1]], dtype=np.int64
        )

    @property
    def tokens(self) -> int:
        """How many tokens the losses are means of."""
        return len(self._wanted)

    def answers(self, path: Path, adapter: Path | None = None) -> Array:
        """Return log probabilities, [tokens, vocabulary]."""

        def of_row(server: Server, row: EncodedRow) -> Array:
            positions, _ = self._targets(row)
            return server.log_probabilities(row.ids, positions)

        with Server(path, context=_CONTEXT, adapter=adapter) as server:
            server.use_adapter(adapter is not None)
            return np.concatenate([of_row(server, row) for row in self.rows])

    def loss(self, answers: Array) -> float:
        """Return the mean loss of the held-out tokens."""
        places = np.arange(self.tokens), self._wanted
        return float(-answers[places].astype(np.float64).mean())

    def served(self, trained: Array, served: Array, size: int) -> Served:
        """Hold what is served against what was trained."""
        wide = trained.astype(np.float64)
        kl = float((np.exp(wide) * (wide - served)).sum(axis=-1).mean())
        return Served(self.loss(trained), self.loss(served), kl, size)


def trained(side: str, source: Path, target: Path, *more: str) -> Watched:
    """Run one training in a process of its own."""
    target.mkdir(parents=True, exist_ok=True)
    return watch([sys.executable, str(_ARMS), side, str(source), str(target), *more], target)


def one_seed(
    seed: int, epochs: float, judge: Judge, models: Models, llama_cpp: Path, folder: Path
) -> dict[str, Served]:
    """Train both sides once, and serve them in every way."""
    base, model = models.packed, models.dense
    chosen = ("--seed", str(seed), "--epochs", str(epochs))
    mine, theirs = folder / "ours", folder / "theirs"
    steps = [
        trained("ours", base, mine, *chosen).answer["steps"],
        trained("peer", model, theirs, "--rows-of", str(base), *chosen).answer["steps"],
    ]
    if steps[0] != steps[1]:
        raise SystemExit(f"the trainings have {steps} steps; not compared")
    adapter = mine / "adapter.gguf"
    merged = {kind: mine / f"merged-{kind}.gguf" for kind in ("Q4_K_M", "Q8_0")}
    for kind, path in merged.items():
        step("ours", base, path, mine, "--adapter", adapter, "--quantization", kind)
    (folder / "export").mkdir()
    peer = peer_export(model, theirs / "peft", llama_cpp, folder / "export")
    ours = np.load(mine / "trained.npy")
    dense = np.load(theirs / "trained.npy")
    size = base.stat().st_size
    return {
        "llamaforge, adapter over the file": judge.served(
            ours, judge.answers(base, adapter), size + adapter.stat().st_size
        ),
        **{
            f"llamaforge, merged, {kind}": judge.served(
                ours, judge.answers(path), path.stat().st_size
            )
            for kind, path in merged.items()
        },
        "peer, merged, Q4_K_M": judge.served(
            dense, judge.answers(peer.path), peer.path.stat().st_size
        ),
        "peer, merged, BF16 before packing": judge.served(
            dense, judge.answers(peer.plain), peer.plain.stat().st_size
        ),
    }


def report(found: list[dict[str, Served]]) -> str:
    """Return the tables, means over seeds."""
    rows, kls = [], {}
    for name in found[0]:
        runs = [seed[name] for seed in found]
        kls[name] = statistics.mean(run.kl for run in runs)
        gaps = [run.served - run.trained for run in runs]
        rows.append(
            (
                name,
                f"{statistics.mean(run.trained for run in runs):.4f}",
                f"{statistics.mean(run.served for run in runs):.4f}",
                f"{statistics.mean(gaps):+.4f}",
                f"{max(gaps, key=abs):+.4f}",
                f"{kls[name]:.2g}",
                f"{runs[0].size / 1e6:.1f}",
            )
        )
    head = ("way", "as trained", "as served", "difference", "largest", "KL", "MB")
    peer = kls["peer, merged, Q4_K_M"]
    ratios = []
    for name, kl in list(kls.items())[:3]:
        aim = verdict(round(peer / kl, 1), _AIM) if "adapter" in name else ""
        ratios.append((f"peer, merged, Q4_K_M : {name}", f"{peer / kl:.1f}×", aim))
    return f"{table(head, rows)}\n\n{table(('KL of', 'ratio', 'aim'), ratios)}"


def main() -> None:
    """Train and serve for every seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--original", type=int, metavar="STEPS", help="pre-train a model first")
    parser.add_argument("--llama-cpp", type=Path, help="a folder with llama.cpp's converter")
    options = parser.parse_args()
    llama_cpp = llama_cpp_source(options.llama_cpp)
    cache_folder().mkdir(parents=True, exist_ok=True)
    load = load_now()
    found = []
    with tempfile.TemporaryDirectory(dir=cache_folder()) as place:
        steps = options.original
        models = demo(Path(place, "hf")) if steps is None else original(steps)
        judge = Judge(models.packed)
        for seed in range(options.seeds):
            print(f"seed {seed} …", file=sys.stderr)
            folder = Path(place, str(seed))
            found.append(one_seed(seed, options.epochs, judge, models, llama_cpp, folder))
    untouched = judge.loss(judge.answers(models.packed))
    print(describe(["torch", "transformers", "peft", "gguf", "llama_cpp_python"]))
    print(
        f"{models.name}; rank 16, {options.epochs:g} epochs of {len(judge.training):,} rows, "
        f"{options.seeds} seeds, load before {load:.1f}; loss of {judge.tokens:,} tokens in "
        f"{len(judge.rows)} held-out rows, {untouched:.4f} before training\n\n{report(found)}"
    )


if __name__ == "__main__":
    main()
