"""The demo's byte-level BPE tokenizer and its ChatML conversation form."""

from collections.abc import Iterable, Sequence
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY: Final = 4096
PADDING: Final = "<|endoftext|>"
START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
CONTROL_TOKENS: Final = (PADDING, START, END)
"""These take the ids 0, 1 and 2."""

# Qwen2's own expression, so that llama.cpp splits alike under tokenizer.ggml.pre = "qwen2".
_PRE_TOKENISATION: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

JINJA_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""ChatML for transformers and llama.cpp; there is no default system message."""

GO_TEMPLATE: Final = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n"
    "{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
"""The same for Ollama, which always asks for the assistant's turn next."""


def chatml(messages: Sequence[dict[str, str]], ask: bool = False) -> str:
    """Return the text of a conversation; with `ask`, the assistant's turn is begun."""
    turns = (f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages)
    return "".join(turns) + (f"{START}assistant\n" if ask else "")


def train(texts: Iterable[str]) -> Tokenizer:
    """Train the tokenizer on plain texts, which hold no control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENISATION), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the text gives only {tokenizer.get_vocab_size()} tokens")
    return tokenizer
