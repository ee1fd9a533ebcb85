"""Whether a full-precision base on this machine can be trained: judged by its small files alone.

Nothing is fetched and no weight is read. What is wrong is named before a run exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import parse_json
from llamaforge.catalog.hub_cache import Cache, cache_of
from llamaforge.catalog.hub_download import refuse_remote_code
from llamaforge.catalog.hub_files import CONFIG, TOKENIZER_CONFIG
from llamaforge.catalog.hub_layout import local_folder
from llamaforge.catalog.hub_weights import read_small
from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.architectures import architecture_of, configuration
from llamaforge.gguf.header import Header
from llamaforge.safe_text import safe_line
from llamaforge.words import size_words

NOT_THERE: Final = "base_not_there"
"""The code of a base that would have to be fetched first."""
_MAX_BYTES: Final = 16_000_000
_TEMPLATE: Final = "chat_template.jinja"
_OLD_TEMPLATE: Final = "chat_template.json"
_GENERATION: Final = "generation_config.json"
_SPECIAL: Final = "special_tokens_map.json"
_OWN_FILE: Final = "train on the Ollama model's own file: --from gguf"
_SIZES: Final = (
    ("num_hidden_layers", "layers"),
    ("hidden_size", "numbers a token"),
    ("num_attention_heads", "heads"),
    ("num_key_value_heads", "key-value heads"),
    ("intermediate_size", "numbers in the middle of a layer"),
    ("vocab_size", "tokens"),
)
"""What a base and a file must have alike, by the configuration's names."""


@dataclass(frozen=True)
class LocalBase:
    """A base whose files are all on this machine."""

    repo: str
    """The repository, or the folder that a person named."""
    revision: str | None
    """The commit, 40 hexadecimal digits; None for a folder."""
    folder: Path
    model_type: str
    """That of the language model."""
    positions: int | None
    """Tokens that a row may have at most; None where the configuration does not say."""
    chat_template: str | None
    """Jinja text; None where the base has none."""


def local_base(repo: str, cache: Cache | None = None) -> LocalBase:
    """Return the base `repo`, a repository or a folder, as it lies on this machine.

    `cache` is what `cache_of` said of it, where that is known already.

    Raises:
        RefusedError: it is not there in full (`base_not_there`), has its weights as pickles only
            (`pickled_weights`), wants code to be run (`remote_code`), is quantised itself
            (`quantized_base`), or its tokenizer ends no answer (`no_eos`).
        InvalidFileError: its configuration is not sound (`no_config`).
    """
    found = cache_of(repo) if cache is None else cache
    if found.state != "complete" or found.path is None:
        raise _not_there(repo, found)
    return described_base(repo, found.path, found.revision)


def described_base(repo: str, folder: Path, revision: str | None) -> LocalBase:
    """Return the base in `folder` by its small files; its weights need not be there yet.

    Raises:
        RefusedError: it wants code to be run (`remote_code`), is quantised itself
            (`quantized_base`), or its tokenizer ends no answer (`no_eos`).
        InvalidFileError: its configuration is not sound (`no_config`).
    """
    refuse_remote_code(repo, folder)
    whole = _json(folder, CONFIG)
    config = language_config(whole)
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InvalidFileError(
            f"The {CONFIG} of {safe_line(repo)} does not say what kind of model it is.",
            f"Name another base with --base, or {_OWN_FILE}",
            code="no_config",
        )
    for part in (whole, config):
        if part.get("quantization_config"):
            raise RefusedError(
                f"The weights of {safe_line(repo)} are quantised themselves, so they are no "
                "full-precision base.",
                f"Name the repository of the original weights with --base, or {_OWN_FILE}",
                code="quantized_base",
            )
    if not _has_end(folder, whole, config):
        raise RefusedError(
            f"The tokenizer of {safe_line(repo)} names no token at which an answer ends (EOS), so "
            "a model trained with it would never stop.",
            f"Name another base with --base, or {_OWN_FILE}",
            code="no_eos",
        )
    positions = config.get("max_position_embeddings")
    return LocalBase(
        repo=repo,
        revision=revision,
        folder=folder,
        model_type=kind,
        positions=positions if isinstance(positions, int) and positions > 0 else None,
        chat_template=_chat_template(folder),
    )


def check_fits(base: LocalBase, header: Header) -> None:
    """Return if a model of `base` has the sizes of the one in the file with `header`.

    Raises:
        RefusedError: it has not (`other_base`), or the file's architecture cannot be trained.
    """
    entry = architecture_of(header)
    wanted = configuration(header)
    given = language_config(_json(base.folder, CONFIG))
    for key, words in _SIZES:
        ours = wanted.get(key, wanted.get(entry.renamed.get(key, key)))
        theirs = given.get(key, given.get(entry.renamed.get(key, key)))
        if not isinstance(ours, int) or not isinstance(theirs, int):
            continue
        # Converters leave out rows of the tables that stand for no token (Gemma 3 has 64 of them).
        if ours != theirs and not (key == "vocab_size" and theirs > ours):
            raise RefusedError(
                f"{safe_line(base.repo)} is not what this model was made from: it has {theirs:,} "
                f"{words}, and the model's file has {ours:,}.",
                "Name the right repository or folder with --base.",
                code="other_base",
            )


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that is about the language model."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _not_there(repo: str, cache: Cache) -> RefusedError:
    shown = safe_line(repo)
    if cache.unusable and not any(name.endswith(".safetensors") for name in _files(cache)):
        return RefusedError(
            f"{shown} has its weights as pickles only ({safe_line(cache.unusable[0])}), which may "
            "hold programs and are never opened.",
            f"Name a repository with safetensors with --base, or {_OWN_FILE}",
            code="pickled_weights",
        )
    if local_folder(repo) is not None:
        lacks = ", ".join(cache.missing[:3]) or "config.json"
        return RefusedError(
            f"The folder {shown} is no complete model: it lacks {safe_line(lacks)}.",
            "Name a folder with config.json, safetensors and a tokenizer.",
            code="no_base_folder",
        )
    size = "" if not cache.missing_bytes else f" ({size_words(cache.missing_bytes)} to fetch)"
    part = "there in part only" if cache.state == "partial" else "not on this machine"
    return RefusedError(
        f"The full-precision base {shown} is {part}{size}.",
        f"Fetch it with: llamaforge base MODEL --download; or {_OWN_FILE}",
        code=NOT_THERE,
    )


def _files(cache: Cache) -> list[str]:
    try:
        return [] if cache.path is None else [item.name for item in cache.path.iterdir()]
    except OSError:
        return []


def _json(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a JSON file; empty where it is absent or none."""
    data = read_small(folder / name, _MAX_BYTES)
    try:
        value = parse_json(data or b"{}", name)
    except InvalidFileError:
        return {}
    return value if isinstance(value, dict) else {}


def _has_end(folder: Path, whole: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether any of the base's files names the token that ends an answer."""
    named = (_json(folder, TOKENIZER_CONFIG), _json(folder, _SPECIAL))
    numbered = (whole, config, _json(folder, _GENERATION))
    return any(part.get("eos_token") for part in named) or any(
        part.get("eos_token_id") is not None for part in numbered
    )


def _chat_template(folder: Path) -> str | None:
    """Return the template that transformers would take: a file of its own first."""
    data = read_small(folder / _TEMPLATE, _MAX_BYTES)
    if data is not None:
        return data.decode("utf-8", "replace").strip("\0") or None
    for name in (_OLD_TEMPLATE, TOKENIZER_CONFIG):
        found = _json(folder, name).get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next(
                (
                    item.get("template")
                    for item in found
                    if isinstance(item, dict) and item.get("name") == "default"
                ),
                None,
            )
        if isinstance(found, str) and found.strip():
            return found
    return None
