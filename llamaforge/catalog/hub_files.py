"""Which files of a Hugging Face repository a base needs, and what each of them is for.

Only what is named here is ever fetched or looked at: weights as safetensors, JSON, and the plain
vocabularies of tokenizers. Pickled weights and code stay where they are.
"""

import re
from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final

CONFIG: Final = "config.json"
SINGLE_WEIGHTS: Final = "model.safetensors"
WEIGHTS_INDEX: Final = "model.safetensors.index.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TOKENIZER: Final = "tokenizer.json"

VOCABULARIES: Final = (
    frozenset({TOKENIZER}),
    frozenset({"tokenizer.model"}),
    frozenset({"vocab.json", "merges.txt"}),
    frozenset({"vocab.txt"}),
    frozenset({"spiece.model"}),
    frozenset({"sentencepiece.bpe.model"}),
    frozenset({"tekken.json"}),
)
"""Each set is enough to build a tokenizer from."""

_TOKENIZER_FILES: Final = frozenset().union(*VOCABULARIES) | {
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
}
# As `save_pretrained` names them, and the form that repeats the extension.
_SHARD: Final = re.compile(r"model(\.safetensors)?-\d{5,6}-of-\d{5,6}\.safetensors")
_SHARD_NAME: Final = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,199}\.safetensors")
_PICKLED: Final = re.compile(r"pytorch_model(-\d{5,6}-of-\d{5,6})?\.bin")
_LICENSE: Final = re.compile(r"(licen[cs]e|notice|use_policy)(\.(txt|md))?", re.IGNORECASE)


class Role(Enum):
    """What a file is for."""

    CONFIG = "config"
    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    EXTRA = "extra"
    """Fetched along, and not missed: the generation settings, the license."""
    PICKLED = "pickled"
    """Weights that only `pickle` could read: never opened, never fetched."""


def role_of(name: str) -> Role | None:
    """Return what the file `name` at the root of a repository is for, None for all others."""
    if name == CONFIG:
        return Role.CONFIG
    if name in {SINGLE_WEIGHTS, WEIGHTS_INDEX} or is_shard(name):
        return Role.WEIGHTS
    if name in _TOKENIZER_FILES:
        return Role.TOKENIZER
    if name == "generation_config.json" or _LICENSE.fullmatch(name):
        return Role.EXTRA
    return Role.PICKLED if _PICKLED.fullmatch(name) else None


def is_shard(name: str) -> bool:
    """Return whether `name` is that of one of several files of weights."""
    return _SHARD.fullmatch(name) is not None


def is_plain_weights_name(name: str) -> bool:
    """Return whether `name`, out of an index, is that of a safetensors file in the same folder."""
    return _SHARD_NAME.fullmatch(name) is not None


def needed_files(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of a repository's files that a base needs, the weights last.

    Of weights in one file and weights in shards the one file is taken, as transformers does.
    """
    roles = {name: role_of(name) for name in names}
    skipped = {Role.PICKLED, None}
    wanted = [name for name, role in roles.items() if role not in skipped]
    if SINGLE_WEIGHTS in roles:
        wanted = [name for name in wanted if name != WEIGHTS_INDEX and not is_shard(name)]
    return tuple(sorted(wanted, key=lambda name: (is_large(name), name)))


def is_large(name: str) -> bool:
    """Return whether a file holds weights: it is fetched after those that describe them."""
    return name.endswith(".safetensors")


def lacks_vocabulary(names: Collection[str]) -> bool:
    """Return whether no tokenizer could be built from the files in `names`."""
    return not any(vocabulary.issubset(names) for vocabulary in VOCABULARIES)
