"""Which Hugging Face repository a model was made from: the evidence, the verdict, how sure it is.

Nothing is ever assumed: without evidence the base stays unknown. What the evidence says is held
against the sizes in the file's header.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from llamaforge.catalog.base_map import BaseMap, Checkpoint, is_repo
from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.names import DEFAULT_HOST, DEFAULT_NAMESPACE, ModelName, parse_name
from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line

Confidence = Literal["certain", "likely", "guess", "unknown"]

_HUB_HOSTS: Final = frozenset({"hf.co", "huggingface.co"})
_HUB_ADDRESS: Final = re.compile(
    r"(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/([^/\s?#]+/[^/\s?#]+)/?", re.IGNORECASE
)
_GGUF_ENDING: Final = re.compile(r"[-_.](?:i1-)?gguf$", re.IGNORECASE)
_PADDING: Final = 0.01
"""The part by which a vocabulary may differ: files pad it, or leave the padding out."""
_STEPS: Final[tuple[Confidence, ...]] = ("unknown", "guess", "likely", "certain")
_SIZES: Final = (
    ("layers", "block_count", "layers"),
    ("hidden", "embedding_length", "numbers a token"),
    ("heads", "attention.head_count", "heads"),
    ("kv_heads", "attention.head_count_kv", "key-value heads"),
)
"""A shape's field, the header's key for it, and what to call it after the number."""


@dataclass(frozen=True)
class Base:
    """The verdict on a model's base."""

    repo: str | None
    """A repository, or a folder that a person named; None where nothing is known."""
    confidence: Confidence
    evidence: tuple[str, ...]
    """Sentences, the strongest first."""
    checkpoint: Checkpoint | None = None
    """What the map knows of the repository."""
    contradictions: tuple[str, ...] = ()
    """Sentences on what in the file speaks against it; they are in the evidence too."""


@dataclass(frozen=True)
class _Clue:
    """One piece of evidence."""

    repo: str
    strength: Confidence
    source: str
    """What kind of thing says it: clues of one kind do not confirm each other."""
    words: str


def find_base(
    model: StoredModel,
    base_map: BaseMap,
    *,
    names_of_blob: Mapping[str, Sequence[str]] | None = None,
    chosen: Mapping[str, str] | None = None,
) -> Base:
    """Return what `model` was made from, as far as there is evidence.

    Args:
        model: any entry of a store.
        base_map: what is known of repositories.
        names_of_blob: by blob digest, the full names of all models that have these weights.
        chosen: by blob digest, the bases that a person named.
    """
    said = (chosen or {}).get(model.blob_digest) if model.blob_digest else None
    if said is not None:
        return _said(model, said, base_map)
    clues = list(_clues(model, base_map, names_of_blob or {}))
    if not clues:
        return Base(None, "unknown", tuple(_nothing(model, base_map)))
    return _verdict(model, base_map, clues)


def _said(model: StoredModel, said: str, base_map: BaseMap) -> Base:
    checkpoint = base_map.by_repo(said)
    _, against = _compared(model, checkpoint)
    return Base(said, "certain", ("You said so.", *against), checkpoint, tuple(against))


def _verdict(model: StoredModel, base_map: BaseMap, clues: Sequence[_Clue]) -> Base:
    """Weigh the clues: the first one counts, others confirm it or speak against it."""
    repo = clues[0].repo
    agreeing = [clue for clue in clues if clue.repo.lower() == repo.lower()]
    step = max(_STEPS.index(clue.strength) for clue in agreeing)
    checkpoint = base_map.by_repo(repo)
    if checkpoint is not None:
        repo = checkpoint.repo  # spelled as on the Hub
    agrees, against = _compared(model, checkpoint)
    if len({clue.source for clue in agreeing}) > 1 and step >= _STEPS.index("likely"):
        step += 1
    if agrees and not against and step == _STEPS.index("guess"):
        step += 1
    others = [clue for clue in clues if clue.repo.lower() != repo.lower()]
    step -= bool(others)
    evidence = [clue.words for clue in clues] + agrees + against
    if checkpoint is not None and _other_architecture(model, checkpoint):
        return Base(None, "unknown", tuple(evidence), None, tuple(against))
    if against:
        step = _STEPS.index("guess")
        evidence += _fitting(model, checkpoint, base_map)
    step = min(max(step, _STEPS.index("guess")), _STEPS.index("certain"))
    return Base(repo, _STEPS[step], tuple(evidence), checkpoint, tuple(against))


def _clues(
    model: StoredModel, base_map: BaseMap, names_of_blob: Mapping[str, Sequence[str]]
) -> Iterator[_Clue]:
    """Yield the evidence, best first."""
    name = _parsed(model.full_name)
    header = list(_header_clues(model, base_map))
    yield from _hub_clues(name, base_map, header)
    yield from header
    parents = [layer.from_ for layer in model.layers if layer.kind == "model" and layer.from_]
    for parent in dict.fromkeys(parents):
        yield from _named(_parsed(parent), base_map, "parent", "It was made from")
    yield from _config_clues(model, base_map)
    if name is not None and name.host.lower() not in _HUB_HOSTS:
        yield from _named(name, base_map, "name", "It is called")
    for other in names_of_blob.get(model.blob_digest, ()) if model.blob_digest else ():
        twin = _parsed(other)
        if twin is not None and twin != name:
            yield from _named(twin, base_map, "twin", "It has the same weights as")


def _hub_clues(
    name: ModelName | None, base_map: BaseMap, header: Sequence[_Clue]
) -> Iterator[_Clue]:
    """A model pulled from the Hub names the repository of the GGUF file, not of the weights."""
    if name is None or name.host.lower() not in _HUB_HOSTS:
        return
    plain = _GGUF_ENDING.sub("", name.model)
    source = f"It was pulled from {name.namespace}/{name.model}"
    checkpoint = base_map.by_repo(f"{name.namespace}/{plain}") or base_map.by_repo_name(plain)
    if checkpoint is not None:
        words = f"{source}, which is named after {checkpoint.repo}."
        yield _Clue(checkpoint.repo, "likely", "place", words)
    elif not header and is_repo(f"{name.namespace}/{plain}"):
        repo = f"{name.namespace}/{plain}"
        same = plain == name.model
        words = f"{source}." if same else f"{source}; repositories of GGUF files end so."
        yield _Clue(repo, "guess", "place", words)


def _header_clues(model: StoredModel, base_map: BaseMap) -> Iterator[_Clue]:
    """What the GGUF header, or a safetensors model's own configuration, says of its origin."""
    for key in ("config.json _name_or_path",):
        repo = _repo_in(_detail(model, key))
        if repo:
            yield _Clue(repo, "certain", "config", f"Its config.json names {repo}.")
    for key in ("general.source.huggingface.repository", "general.source.repo_url",
                "general.source.url"):  # fmt: skip
        repo = _repo_in(_detail(model, key))
        if repo:
            yield _Clue(repo, "certain", "header", f"Its header names {repo} as its source.")
    composed = _composed(model)
    parent = _repo_in(_detail(model, "general.base_model.0.repo_url"))
    known = next(filter(None, map(base_map.by_repo_name, composed)), None)
    if parent is None:
        if known is not None:
            words = f"Its header calls it {safe_line(composed[0], limit=80)}."
            yield _Clue(known.repo, "likely", "header", words)
        return
    words = f"Its header names {parent} as its base model."
    tuned = _detail(model, "general.finetune")
    if not tuned or _squeezed(tuned) in _squeezed(parent):
        yield _Clue(parent, "certain", "header", words)
        return
    # The file of a tuned model names what the *tuned* model was made from, one step too far.
    owner = parent.partition("/")[0]
    if known is not None:
        words = f"{words} It is the tuned {safe_line(composed[0], limit=80)} of that."
        yield _Clue(known.repo, "certain", "header", words)
    elif composed and is_repo(f"{owner}/{composed[0]}"):
        words = f"{words} It is a tuned model of that, {safe_line(tuned, limit=40)}."
        yield _Clue(f"{owner}/{composed[0]}", "guess", "header", words)


def _config_clues(model: StoredModel, base_map: BaseMap) -> Iterator[_Clue]:
    base_name = model.config.get("base_name")
    if not isinstance(base_name, str):
        return
    words = f"Its config layer names {safe_line(base_name, limit=80)} as its base."
    repo = _repo_in(base_name)
    if repo is not None and (base_map.by_repo(repo) or "/" in base_name):
        yield _Clue(repo, "likely", "config layer", words)
        return
    checkpoint = base_map.by_repo_name(base_name)
    if checkpoint is not None:
        yield _Clue(checkpoint.repo, "likely", "config layer", words)
        return
    yield from _named(_parsed(base_name), base_map, "config layer", "Its config layer names")


def _named(name: ModelName | None, base_map: BaseMap, source: str, said: str) -> Iterator[_Clue]:
    """A name of Ollama's library stands for one checkpoint; the same name elsewhere may not."""
    if name is None:
        return
    checkpoint = base_map.by_tag(name.model, name.tag)
    if checkpoint is None:
        return
    is_library = (name.host.lower(), name.namespace.lower()) == (DEFAULT_HOST, DEFAULT_NAMESPACE)
    where = "in Ollama's library" if is_library else "in Ollama's library, though not from there"
    words = f"{said} {name.short}, which is {checkpoint.repo} {where}."
    yield _Clue(checkpoint.repo, "likely" if is_library else "guess", source, words)


def _nothing(model: StoredModel, base_map: BaseMap) -> Iterator[str]:
    """Yield why nothing is known."""
    name = _parsed(model.full_name)
    if name is not None and any(base_map.checkpoints(name.model)):
        tags = [tag for found in base_map.checkpoints(name.model) for tag in found.tags]
        shown = ", ".join(tags[:8]) + (" …" if len(tags) > 8 else "")
        yield f"The map knows {name.model}, but not the tag {name.tag}; it knows {shown}."
        return
    yield "Neither its name nor its file says what it was made from."


def _compared(model: StoredModel, checkpoint: Checkpoint | None) -> tuple[list[str], list[str]]:
    """Return a sentence on the sizes that agree, and one on each that does not."""
    if checkpoint is None or not model.architecture or not model.tensor_types:
        return [], []  # what the tag claims of the sizes proves nothing
    if _other_architecture(model, checkpoint):
        theirs, ours = checkpoint.architecture, safe_line(model.architecture, limit=40)
        return [], [f"But its architecture is {ours}, and that of {checkpoint.repo} is {theirs}."]
    same: list[str] = []
    against: list[str] = []
    for field, key, words in _SIZES:
        theirs_, ours_ = getattr(checkpoint.shape, field), _number(model, key)
        if theirs_ is None or ours_ is None:
            continue
        counted = words.removesuffix("s") if ours_ == 1 else words
        if theirs_ == ours_:
            same.append(f"{ours_:,} {counted}")
        else:
            against.append(
                f"But it has {ours_:,} {counted}, and {checkpoint.repo} has {theirs_:,}."
            )
    tokens = checkpoint.shape.vocab
    if tokens is not None and model.vocab_size:
        if abs(tokens - model.vocab_size) <= _PADDING * tokens:
            same.append(f"{model.vocab_size:,} tokens")
        else:
            words = f"But it has {model.vocab_size:,} tokens, and {checkpoint.repo} has {tokens:,}."
            against.append(words)
    agree = f"{_listed(same)} agree with {checkpoint.repo}." if same else ""
    return [agree] if agree else [], against


def _fitting(model: StoredModel, checkpoint: Checkpoint | None, base_map: BaseMap) -> list[str]:
    """Name the other size of the family that the file's sizes fit, if it is one only."""
    if checkpoint is None:
        return []
    fits = {
        other.size
        for other in base_map.checkpoints(checkpoint.family)
        if other.size != checkpoint.size and _agrees(model, other)
    }
    if len(fits) != 1:
        return []
    return [f"Its sizes are those of {checkpoint.family} in the size {fits.pop()}."]


def _agrees(model: StoredModel, checkpoint: Checkpoint) -> bool:
    same, against = _compared(model, checkpoint)
    return bool(same) and not against


def _other_architecture(model: StoredModel, checkpoint: Checkpoint) -> bool:
    read = model.sources.get("architecture") == "GGUF header"
    return read and model.architecture.lower() != checkpoint.architecture.lower()


def _composed(model: StoredModel) -> list[str]:
    """Return the names that the header's parts make, the fullest first."""
    parts = [_detail(model, f"general.{key}") for key in ("basename", "size_label", "finetune")]
    found = ["-".join(part.replace(" ", "-") for part in parts if part)] if all(parts[:2]) else []
    title = _detail(model, "general.name")
    return found + ([title.replace(" ", "-")] if title else [])


def _detail(model: StoredModel, key: str) -> str:
    value = model.details.get(key, "")
    return value.strip() if isinstance(value, str) else ""


def _number(model: StoredModel, key: str) -> int | None:
    value = model.details.get(f"{model.architecture}.{key}")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _repo_in(text: str) -> str | None:
    """Return the repository in `owner/name` or an address of the Hub; never a path."""
    address = _HUB_ADDRESS.fullmatch(text)
    found = address[1] if address else text
    return found if is_repo(found) and not Path(text).is_absolute() else None


def _parsed(text: str) -> ModelName | None:
    try:
        return parse_name(text)
    except UsageError:
        return None


def _squeezed(text: str) -> str:
    return re.sub(r"[^0-9a-z]", "", text.lower())


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
