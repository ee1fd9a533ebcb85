"""A model with its Hugging Face base, what the Hub cache has of that, and the ways to train it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamaforge.catalog.base import Base, find_base
from llamaforge.catalog.base_choices import remembered_bases
from llamaforge.catalog.base_map import BaseMap, load_base_map
from llamaforge.catalog.hub_base import local_base
from llamaforge.catalog.hub_cache import Cache, cache_of
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line

NO_CACHE: Final = Cache("absent", 0, None, (), None, None)
"""Of a base that is not known."""
_NO_BASE: Final = "its full-precision base is not known"


@dataclass(frozen=True)
class Trainable:
    """Whether this program can train a model, by way."""

    gguf: bool
    """On the packed blob that Ollama serves."""
    hub: bool
    """On the full-precision base."""
    reason: str
    """Why not on the blob; empty where it can be."""
    hub_reason: str
    """Why not on the base."""


@dataclass(frozen=True)
class ListedModel:
    """A model as lists and screens show it."""

    model: StoredModel
    base: Base
    cache: Cache
    trainable: Trainable


class Lister:
    """Joins models with bases and caches; a base that many models share is looked up once."""

    def __init__(
        self,
        base_map: BaseMap | None = None,
        names_by_blob: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Take the map of bases, by default the shipped one under the user's own.

        Args:
            base_map: the map.
            names_by_blob: the full names of all models with the same weights, by blob digest.

        Raises:
            InvalidFileError: the user's own map is not sound.
        """
        self._base_map = load_base_map() if base_map is None else base_map
        self._chosen = remembered_bases()
        self._names_by_blob = names_by_blob or {}
        self._caches: dict[str, Cache] = {}
        self._reasons: dict[str, str] = {}

    def join(self, model: StoredModel) -> ListedModel:
        """Return `model` with all that is known around it; nothing is fetched."""
        base = find_base(
            model, self._base_map, names_of_blob=self._names_by_blob, chosen=self._chosen
        )
        cache = self._cache(base.repo)
        return ListedModel(model, base, cache, trainable_ways(model, self._reason(base, cache)))

    def _reason(self, base: Base, cache: Cache) -> str:
        """Return why nothing can be trained on a base; empty where it can be."""
        if base.repo is None:
            return _NO_BASE
        if base.contradictions:
            return base.contradictions[0].removeprefix("But ").rstrip(".")
        if base.repo not in self._reasons:
            self._reasons[base.repo] = _reason_of(base.repo, cache)
        return self._reasons[base.repo]

    def _cache(self, repo: str | None) -> Cache:
        if repo is None:
            return NO_CACHE
        if repo not in self._caches:
            self._caches[repo] = cache_of(repo)
        return self._caches[repo]


def _reason_of(repo: str, cache: Cache) -> str:
    try:
        local_base(repo, cache)
    except LlamaForgeError as error:
        return safe_line(error.message.rstrip("."), limit=300)
    return ""


def trainable_ways(model: StoredModel, hub_reason: str) -> Trainable:
    """Return by which ways `model` can be trained, and why not by the others.

    `hub_reason` is what stands against its base. A file that cannot be trained on cannot be laid
    an adapter over either, and gives no merged file its form.
    """
    ready = model.status is ModelStatus.READY
    reason = hub_reason if ready else model.reason
    return Trainable(gguf=ready, hub=ready and not reason, reason=model.reason, hub_reason=reason)
