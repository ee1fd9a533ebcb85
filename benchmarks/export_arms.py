"""The steps of both ways to a merged GGUF, each a process: ours, and the peer's three.

`ours` merges from the packed file. The peer merges dense weights with PEFT (`merge`), converts them
with llama.cpp's script (`convert`) and packs them with llama.cpp's library (`quantize`).
"""

import argparse
import contextlib
import ctypes
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below


def ours(options: argparse.Namespace) -> None:
    """Write the packed model with the adapter merged as Q4_K_M."""
    from llamaforge.export.merged import Provenance, write_merged
    from llamaforge.gguf.header import read_header

    about = Provenance("merged", "benchmark", "random", "sha256:0", "LlamaForge")
    quantization = options.quantization or None
    made = write_merged(
        options.target,
        read_header(options.source),
        read_header(options.adapter),
        about,
        quantization=quantization,
    )
    print(json.dumps({"size": made.size_bytes}))


def merge(options: argparse.Namespace) -> None:
    """Merge a PEFT adapter into a model folder, and save the whole as another."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(options.source, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, str(options.adapter)).merge_and_unload()
    model.save_pretrained(options.target)
    AutoTokenizer.from_pretrained(options.source).save_pretrained(options.target)


def convert(options: argparse.Namespace) -> None:
    """Convert a model folder to a BF16 GGUF file with llama.cpp's script."""
    sys.path.insert(0, str(options.llama_cpp))
    sys.path.insert(1, str(options.llama_cpp / "gguf-py"))
    import convert_hf_to_gguf as script  # type: ignore[import-not-found]
    from conversion.base import TextModel  # type: ignore[import-not-found]

    recognise = TextModel.get_vocab_base_pre

    def named(self: object, tokenizer: object) -> str:
        # The script knows a tokenizer by the digest of what it makes of one text, so one that is
        # not listed there is refused; these are cut by Qwen2's expression, whatever their tokens.
        with contextlib.suppress(NotImplementedError):
            return str(recognise(self, tokenizer))
        return "qwen2"

    def none(self: object) -> None:
        # These folders have no SentencePiece vocabulary, for which its package would be asked.
        raise FileNotFoundError

    TextModel.get_vocab_base_pre = named
    TextModel._create_vocab_sentencepiece = none  # noqa: SLF001
    sys.argv = [script.__file__, str(options.source), "--outfile", str(options.target)]
    sys.argv += ["--outtype", "bf16"]
    script.main()


def quantize(options: argparse.Namespace) -> None:
    """Pack a GGUF file as Q4_K_M with llama.cpp, on all cores as its tool does."""
    import llama_cpp

    from llamaforge.hardware import physical_cores

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.nthread = physical_cores()
    status = llama_cpp.llama_model_quantize(
        str(options.source).encode(), str(options.target).encode(), ctypes.byref(parameters)
    )
    if status != 0:
        raise SystemExit(f"llama.cpp ended with {status}")


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = {step.__name__: step for step in (ours, merge, convert, quantize)}
    parser.add_argument("step", choices=list(steps))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--quantization", default="Q4_K_M", help="ours: empty keeps all types")
    options = parser.parse_args()
    steps[options.step](options)


if __name__ == "__main__":
    main()
