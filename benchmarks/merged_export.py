"""A trained adapter as one Q4_K_M file: merged into packed blocks, or by way of dense weights.

Usage: python benchmarks/merged_export.py [--model tiny|100m|500m|500m-896|llama] [--rounds N]
           [--llama-cpp DIR]

Ours merges from the packed GGUF and the adapter. The peer is transformers and PEFT
(`merge_and_unload`, `save_pretrained`), llama.cpp's `convert_hf_to_gguf.py`, and llama.cpp's own
quantiser. Every step is a process of its own; time, memory and disk are those of whole processes.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import (
    MODEL_100M,
    MODEL_500M,
    MODEL_500M_896,
    BenchmarkModel,
    cache_folder,
    describe,
    load_now,
    mebibytes,
    qwen2,
    spread,
    table,
    verdict,
    vocabulary,
)
from benchmarks.peer import (
    PeerExport,
    llama_cpp_source,
    peer_export,
    step,
    write_tokenizer,
)
from benchmarks.watch import Watched, together
from tools.random_models import Shape, Vocabulary

_TIME_AIM, _MEMORY_AIM = 2.0, 3.0
_RANK, _ALPHA = 16, 32
_MODELS: Final = {
    "tiny": BenchmarkModel("qwen2-tiny", qwen2(256, 4, 4, 2, 512)),
    "100m": MODEL_100M,
    "500m": MODEL_500M,
    "500m-896": MODEL_500M_896,
    "llama": BenchmarkModel(
        "llama-500m", replace(qwen2(1024, 24, 16, 2, 3840), architecture="llama")
    ),
}
_TOKENS: Final = 64
"""Tokens over which the files that come out are compared."""


def arms_folder(name: str, llama_cpp: Path) -> Path:
    """Return a folder with the model as `hf/` and `q4_k_m.gguf`, its adapter as `peft/` and as
    `adapter.gguf`; made on first use and kept."""
    model = _MODELS[name]
    folder = cache_folder() / f"export-{model.name}"
    if not (folder / "adapter.gguf").exists():
        print(f"making {folder} …", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        draft = folder / "hf"
        draft.mkdir(parents=True)
        words = small_vocabulary() if name == "tiny" else vocabulary()
        write_tokenizer(draft, words.values)
        _write_weights(draft, model.shape, words.size)
        plain = folder / "bf16.gguf"
        step("convert", draft, plain, folder, "--llama-cpp", llama_cpp)
        step("quantize", plain, folder / "q4_k_m.gguf", folder)
        plain.unlink()
        _write_adapters(folder, model.shape)
    return folder


def small_vocabulary() -> Vocabulary:
    """Return a vocabulary of some hundred tokens, for trying."""
    return Vocabulary.byte_level()


def _write_weights(folder: Path, shape: Shape, tokens: int) -> None:
    """Write random weights in bfloat16 as a transformers model."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.architecture]
    config = kind(
        vocab_size=tokens,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def _write_adapters(folder: Path, shape: Shape) -> None:
    """Write one random adapter on all linear layers in both forms."""
    import gguf
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from llamaforge.export.adapter import Factors, write_adapter
    from llamaforge.gguf.header import read_header

    query, pair = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    sizes = {
        "self_attn.q_proj": (query, shape.hidden),
        "self_attn.k_proj": (pair, shape.hidden),
        "self_attn.v_proj": (pair, shape.hidden),
        "self_attn.o_proj": (shape.hidden, query),
        "mlp.gate_proj": (shape.feed_forward, shape.hidden),
        "mlp.up_proj": (shape.feed_forward, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.feed_forward),
    }
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[shape.architecture.upper()], shape.layers)
    random = np.random.default_rng(1)
    weights: dict[str, Any] = {}
    layers: dict[str, Factors] = {}
    for layer in range(shape.layers):
        for name, (rows, width) in sizes.items():
            path = f"model.layers.{layer}.{name}"
            a = random.standard_normal((_RANK, width), dtype=np.float32) / np.float32(width**0.5)
            b = random.standard_normal((rows, _RANK), dtype=np.float32) * np.float32(0.02)
            weights[f"base_model.model.{path}.lora_A.weight"] = torch.from_numpy(a)
            weights[f"base_model.model.{path}.lora_B.weight"] = torch.from_numpy(b)
            layers[names.get_name(path)] = Factors(a, b, _ALPHA / _RANK)
    config = LoraConfig(
        r=_RANK,
        lora_alpha=_ALPHA,
        target_modules=[name.rpartition(".")[2] for name in sizes],
        task_type="CAUSAL_LM",
    )
    config.save_pretrained(str(folder / "peft"))
    save_file(weights, folder / "peft" / "adapter_model.safetensors", {"format": "pt"})
    base = read_header(folder / "q4_k_m.gguf")
    write_adapter(folder / "adapter.gguf", base, layers, name="random", base_digest="sha256:0")


def answers(path: Path, adapter: Path | None = None) -> npt.NDArray[np.float32]:
    """Return what llama.cpp makes of some random tokens: log probabilities [tokens, vocabulary]."""
    from llamaforge.evaluation.llama import Server

    with Server(path, context=2 * _TOKENS, adapter=adapter) as server:
        server.use_adapter(adapter is not None)
        ids = np.random.default_rng(2).integers(0, server.vocab_size, _TOKENS).tolist()
        return server.log_probabilities(ids, range(_TOKENS))


def divergence(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32]) -> float:
    """Return the mean KL(p ‖ q) in nats a token."""
    return float((np.exp(p.astype(np.float64)) * (p - q)).sum(axis=-1).mean())


def check_files(ours: Path, peer: PeerExport, base: Path, adapter: Path) -> str:
    """Return what both files are like, and how far their answers lie from what they stand for.

    Raises:
        SystemExit: their tensors differ in type or shape.
    """
    from llamaforge.gguf.header import read_header

    kinds = [
        {name: (info.type, info.shape) for name, info in read_header(path).tensors.items()}
        for path in (ours, peer.path)
    ]
    if kinds[0] != kinds[1]:
        raise SystemExit("the two files hold other tensors; not compared")
    served, dense = answers(base, adapter), answers(peer.plain)
    found = {"ours": ours, "the peer's": peer.path, "base without adapter": base}
    rows = []
    for name, path in found.items():
        theirs = answers(path)
        rows.append((name, *(f"{divergence(wanted, theirs):.2g}" for wanted in (served, dense))))
    head = ("answers, nats a token from", "packed base + adapter", "dense merged weights")
    sizes = " and ".join(mebibytes(path.stat().st_size) for path in (ours, peer.path))
    return f"{sizes} MiB, the same tensors in the same types\n\n{table(head, rows)}"


def report(ours: list[Watched], peers: list[tuple[Watched, ...]]) -> str:
    """Return the tables of all rounds."""
    wholes = [together(steps) for steps in peers]
    rows = [_row("llamaforge", ours), _row("peer, all three steps", wholes)]
    for number, name in enumerate(("merge with PEFT", "convert", "quantise")):
        rows.append(_row(f"· {name}", [steps[number] for steps in peers]))
    head = (
        "way",
        "s, median",
        "s, best",
        "CPU s",
        "spread",
        "peak MiB",
        "anonymous MiB",
        "disk MiB",
    )
    speed = statistics.median(b.seconds / a.seconds for a, b in zip(ours, wholes, strict=True))
    ratios = [("time", f"{speed:.2f}×", verdict(round(speed, 2), _TIME_AIM))]
    best = min(run.seconds for run in wholes) / min(run.seconds for run in ours)
    ratios.append(("time, best", f"{best:.2f}×", ""))
    compared = {
        "CPU time": "cpu_seconds",
        "peak memory": "peak_bytes",
        "anonymous": "peak_anonymous_bytes",
        "disk": "disk_bytes",
    }
    for name, key in compared.items():
        smaller = _middle(wholes, key) / _middle(ours, key)
        aim = verdict(round(smaller, 2), _MEMORY_AIM) if key == "peak_bytes" else ""
        ratios.append((name, f"{smaller:.2f}×", aim))
    return f"{table(head, rows)}\n\n{table(('peer : ours', 'ratio', 'aim'), ratios)}"


def _middle(runs: list[Watched], key: str) -> float:
    return statistics.median(float(getattr(run, key)) for run in runs)


def _row(name: str, runs: list[Watched]) -> tuple[str, ...]:
    seconds = [run.seconds for run in runs]
    keys = ("peak_bytes", "peak_anonymous_bytes", "disk_bytes")
    return (
        name,
        f"{statistics.median(seconds):.1f}",
        f"{min(seconds):.1f}",
        f"{_middle(runs, 'cpu_seconds'):.1f}",
        f"{spread(seconds):.0%}",
        *(mebibytes(int(_middle(runs, key))) for key in keys),
    )


def main() -> None:
    """Let the two ways take turns, compare what comes out, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(_MODELS), default="500m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-cpp", type=Path, help="a folder with llama.cpp's converter")
    options = parser.parse_args()
    llama_cpp = llama_cpp_source(options.llama_cpp)
    made = arms_folder(options.model, llama_cpp)
    base, adapter = made / "q4_k_m.gguf", made / "adapter.gguf"
    ours: list[Watched] = []
    peers: list[tuple[Watched, ...]] = []
    load = load_now()
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=cache_folder()) as place:
            mine, theirs = Path(place, "ours"), Path(place, "peer")
            mine.mkdir()
            theirs.mkdir()
            target = mine / "merged.gguf"
            ours.append(step("ours", base, target, mine, "--adapter", adapter))
            peer = peer_export(made / "hf", made / "peft", llama_cpp, theirs)
            peers.append(peer.steps)
            alike = check_files(target, peer, base, adapter)
    print(describe(["torch", "transformers", "peft", "gguf", "llama_cpp_python"]))
    print(
        f"{made.name}, rank {_RANK} on all linear layers, {options.rounds} rounds, load before "
        f"{load:.1f}\n\n{report(ours, peers)}\n\nThe files have {alike}"
    )


if __name__ == "__main__":
    main()
