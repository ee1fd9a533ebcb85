"""The engine on a CUDA machine in under eight minutes: is it right, how fast, how much memory?

Usage: python -m benchmarks.gpu_check [--skip-training]

Prints one Markdown table: the weights of every block type held against gguf-py, unpacking against
a copy on the device, and steps of packed LoRA against the same model dense and, where bitsandbytes
is installed, in NF4. Exits with 0 if every weight is right, 1 if not, 2 where there is no CUDA.
"""

import argparse
import datetime
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import torch

from benchmarks.common import cache_folder, table, vocabulary
from benchmarks.gpu_arms import ARMS, LENGTH, MODEL, Measured, has_bitsandbytes, kind_of, measure
from benchmarks.gpu_unpack import Row, bandwidth, correctness, differs
from llamaforge.gguf.header import Header, read_header
from tools.random_models import write_packed_model

_HEAD: Final = ("what", "figure", "peer", "the peer's", "ratio")
_BATCHES: Final = (1, 2, 4)
_SECONDS: Final = 420.0
"""No measurement is begun later than this; the longest takes well under a minute."""
_PACKAGES: Final = (
    *("llamaforge", "torch", "triton", "transformers", "peft", "bitsandbytes", "gguf"),
)
_LOSS_TOLERANCE: Final = 5e-3
"""How far first losses on the same rows may lie apart, in nats: bfloat16's rounding."""


def model_header() -> Header:
    """Return the header of the random model, which is made on first use and kept."""
    path = cache_folder() / MODEL.name / "model.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path} …", file=sys.stderr)
        draft = path.with_name("draft.gguf")
        write_packed_model(draft, MODEL.shape, vocabulary(), kind_of(MODEL.shape.layers))
        draft.replace(path)
    return read_header(path)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def circumstances(device: torch.device) -> list[Row]:
    """Return the date, the machine and the versions as rows of the table."""
    facts = [("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))]
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts.append(("GPU", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"))
        facts.append(("compute capability", f"{about.major}.{about.minor}"))
    facts += [("system", f"{platform.system()} {platform.machine()}")]
    facts += [("Python", platform.python_version()), ("CUDA", str(torch.version.cuda))]
    facts += [(package, _version(package)) for package in _PACKAGES]
    return [(name, value, "", "", "") for name, value in facts]


def training(device: torch.device, deadline: float) -> list[Row]:
    """Return rows on tokens a second, memory and first losses, each against every peer."""
    header = model_header()
    found: dict[str, dict[int, Measured | str]] = {}
    for key, arm in ARMS.items():
        if key == "nf4" and not has_bitsandbytes():
            found[key] = dict.fromkeys(_BATCHES, "not installed")
            continue
        print(f"measuring {arm.words} …", file=sys.stderr)
        found[key] = measure(arm, header, device, _BATCHES, deadline)
    rows = []
    for batch in _BATCHES:
        ours = found["packed"][batch]
        for key in list(ARMS)[1:]:
            rows += _compared(f"{batch} × {LENGTH}", ours, ARMS[key].words, found[key][batch])
    return [*rows, *_losses(found["packed"][_BATCHES[0]], found["dense"][_BATCHES[0]])]


def _compared(size: str, ours: Measured | str, peer: str, theirs: Measured | str) -> list[Row]:
    def figures(side: Measured | str) -> tuple[str, str]:
        if isinstance(side, str):
            return side, side
        return f"{side.tokens_per_second:,.0f} tokens/s", f"{side.peak_bytes / 2**20:,.0f} MiB"

    speed = memory = ""
    if isinstance(ours, Measured) and isinstance(theirs, Measured):
        speed = f"{ours.tokens_per_second / theirs.tokens_per_second:.2f}"
        memory = f"{ours.peak_bytes / max(1, theirs.peak_bytes):.2f}"
    mine, his = figures(ours), figures(theirs)
    return [
        (f"packed LoRA {size}, speed", mine[0], peer, his[0], speed),
        (f"packed LoRA {size}, peak memory", mine[1], peer, his[1], memory),
    ]


def _losses(ours: Measured | str, theirs: Measured | str) -> list[Row]:
    if isinstance(ours, str) or isinstance(theirs, str):
        return []
    near = abs(ours.first_loss - theirs.first_loss) <= _LOSS_TOLERANCE
    verdict = "equal" if near else "DIFFERS"
    return [("first loss, same rows", f"{ours.first_loss:.4f}", ARMS["dense"].words,
             f"{theirs.first_loss:.4f}", verdict)]  # fmt: skip


def main() -> int:
    """Check and measure on the current CUDA device, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--skip-training", action="store_true", help="unpacking alone, a minute")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"PyTorch {torch.__version__} finds no CUDA device, so nothing was checked.",
            file=sys.stderr,
        )
        return 2
    deadline = time.monotonic() + _SECONDS
    device = torch.device("cuda", torch.cuda.current_device())
    checked = correctness(device)
    rows = [*circumstances(device), *checked, *bandwidth(device)]
    if not options.skip_training:
        rows += training(device, deadline)
    print(table(_HEAD, rows))
    return 1 if differs(checked) or any(row[4] == "DIFFERS" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
