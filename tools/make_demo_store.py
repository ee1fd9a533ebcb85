"""Makes the embedded demo's store: text, tokenizer, model, GGUF file and Ollama's layout.

    python -m tools.make_demo_store            # about fifteen minutes on two CPU cores

The script is seeded, so one machine gives one result; other processors and versions of torch add
up in another order, so that the blobs' digests are not the same everywhere.
"""

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch
from llama_cpp import Llama
from tokenizers import Tokenizer

from tools.demo_store import gguf_file, tokenizer
from tools.demo_store.corpus import conversations
from tools.demo_store.layout import write_store
from tools.demo_store.pretrain import Schedule, pretrain
from tools.demo_store.words import SLOTS

_STORE = Path(__file__).resolve().parents[1] / "llamaforge" / "embedded" / "store"
_TOKENIZER_SEED = 10
_TOKENIZER_CONVERSATIONS = 30_000
_BARE_WORDS = 150
_CHECK_SEED = 30
_MOST_BYTES = 8_000_000


def _check(path: Path, own: Tokenizer) -> None:
    """Load the file in llama.cpp, compare token ids and print some answers.

    Raises:
        ValueError: llama.cpp splits a text into other tokens than the tokenizer does.
    """
    # llama.cpp may crash in batches of quantised weights on CPUs with AMX; single tokens are safe.
    model = Llama(str(path), n_ctx=512, n_batch=1, n_threads=2, verbose=False)
    for messages in itertools.islice(conversations(_CHECK_SEED), 500):
        text = tokenizer.chatml(messages)
        if model.tokenize(text.encode(), add_bos=False, special=True) != own.encode(text).ids:
            raise ValueError(f"llama.cpp tokenises differently: {text!r}")
    for question in (
        "Hello, how are you?",
        "Anna lives in Oslo and Ben lives in Turin. Where does Ben live?",
        "I have a dog called Biscuit. What is my dog called?",
        'Say "Tranolik".',
        "What can I do on a free day?",
    ):
        prompt = tokenizer.chatml([{"role": "user", "content": question}], ask=True)
        ids = own.encode(prompt).ids
        answer: Any = model.create_completion(
            ids, temperature=0.0, max_tokens=48, stop=[tokenizer.END]
        )
        print(f"  {question}\n    {answer['choices'][0]['text']}")


def main() -> None:
    """Make the store and print its digests."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=_STORE, help="the store folder to replace")
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="when there is no C++ compiler")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sample = itertools.islice(conversations(_TOKENIZER_SEED), _TOKENIZER_CONVERSATIONS)
    own = tokenizer.train([
        *(message["content"] for messages in sample for message in messages),
        # A word that starts a line or a quotation has no space before it, which makes it another
        # token; seen often enough, it is one token too, and copying it stays easy.
        *(word for words in SLOTS.values() for word in words for _ in range(_BARE_WORDS)),
    ])  # fmt: skip
    print(f"{own.get_vocab_size()} tokens")
    model = pretrain(own, Schedule(steps=options.steps, compiled=not options.no_compile))
    with tempfile.TemporaryDirectory() as folder:
        full, quantised = Path(folder, "model-f32.gguf"), Path(folder, "model-q4_k_m.gguf")
        gguf_file.write(model, own, full)
        gguf_file.quantise(full, quantised)
        _check(quantised, own)
        content = quantised.read_bytes()
    if len(content) > _MOST_BYTES:
        raise ValueError(f"the model file has {len(content):,} bytes")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    manifest = write_store(options.out, content, parameters)
    for entry in (manifest["config"], *manifest["layers"]):
        print(f"{entry['digest']}  {entry['size']:>9,}  {entry['mediaType']}")


if __name__ == "__main__":
    main()
