"""The peer's way from a model folder to a packed GGUF, and what it needs.

The peer is what people do today: transformers and PEFT merge the dense weights, and llama.cpp
converts and packs them. Its converter is taken from the source archive of the llama-cpp-python that
is installed, so that converter and library are of one version.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.common import cache_folder
from benchmarks.watch import Watched, watch

_ARMS: Final = Path(__file__).with_name("export_arms.py")
_WANTED: Final = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/")
_PRE_TOKENIZATION: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's expression, which llama.cpp uses where a file says `tokenizer.ggml.pre = qwen2`."""
_CONTROL: Final = 3
"""llama.cpp's type of tokens that are no text."""


def llama_cpp_source(given: Path | None) -> Path:
    """Return a folder with llama.cpp's converter: `given`, or one that is downloaded once."""
    if given is not None:
        return given
    release = version("llama_cpp_python")
    folder = cache_folder() / f"llama-cpp-python-{release}"
    if not (folder / "convert_hf_to_gguf.py").exists():
        print(f"downloading the source of llama-cpp-python {release} …", file=sys.stderr)
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as place:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", "llama-cpp-python", "--dest", place]
            subprocess.run([*command, f"llama-cpp-python=={release}"], check=True)
            extracted = Path(place, "extracted")
            _extract(next(Path(place).glob("llama_cpp_python-*.tar.gz")), extracted)
            extracted.replace(folder)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    """Take the converter, which is Python, and leave the rest."""
    with tarfile.open(archive) as whole:
        for member in whole.getmembers():
            _, _, inner = member.name.partition("/vendor/llama.cpp/")
            if member.isfile() and inner.startswith(_WANTED):
                member.name = inner
                whole.extract(member, folder, filter="data")


def write_tokenizer(folder: Path, values: dict[str, Any]) -> None:
    """Write a GGUF file's byte-level vocabulary as the files of a model folder.

    Args:
        folder: the model folder.
        values: metadata by key, as in the GGUF file.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: Sequence[str] = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in values["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENIZATION), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds: Sequence[int] = values["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in control]
    )
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=tokens[values["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[values["tokenizer.ggml.padding_token_id"]],
        chat_template=values.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )
    whole.save_pretrained(folder)


def step(name: str, source: Path, target: Path, watched: Path, *more: str | Path) -> Watched:
    """Run one step of `export_arms.py` in a process of its own."""
    command = [sys.executable, str(_ARMS), name, str(source), str(target), *map(str, more)]
    return watch(command, watched)


@dataclass(frozen=True)
class PeerExport:
    """The peer's steps as they were measured, and the files they write."""

    path: Path
    plain: Path
    """The file before it was packed."""
    merge: Watched
    convert: Watched
    quantize: Watched

    @property
    def steps(self) -> tuple[Watched, Watched, Watched]:
        """All steps, in their order."""
        return self.merge, self.convert, self.quantize


def peer_export(model: Path, adapter: Path, llama_cpp: Path, folder: Path) -> PeerExport:
    """Merge, convert and pack as Q4_K_M in `folder`.

    Args:
        model: the model folder.
        adapter: the folder of the PEFT adapter.
        llama_cpp: the folder of llama.cpp's converter.
        folder: an empty one, for the file and all that lies before it.
    """
    merged, plain, packed = folder / "merged", folder / "bf16.gguf", folder / "q4_k_m.gguf"
    return PeerExport(
        packed,
        plain,
        step("merge", model, merged, folder, "--adapter", adapter),
        step("convert", merged, plain, folder, "--llama-cpp", llama_cpp),
        step("quantize", plain, packed, folder),
    )
