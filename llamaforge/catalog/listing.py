"""A model with its Hugging Face base, what the Hub cache has of that, and the ways to train it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamaforge.catalog.base import Base, find_base
from llamaforge.catalog.base_choices import remembered_bases
from llamaforge.catalog.base_map import BaseMap, load_base_map
from llamaforge.catalog.hub_cache import Cache, cache_of
from llamaforge.catalog.model import ModelStatus, StoredModel

NO_CACHE: Final = Cache("absent", 0, None, (), None, None)
"""Of a base that is not known."""
_HUB_REASON: Final = "training from the Hugging Face base is not available in this version"


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

    def join(self, model: StoredModel) -> ListedModel:
        """Return `model` with all that is known around it; nothing is fetched."""
        base = find_base(
            model, self._base_map, names_of_blob=self._names_by_blob, chosen=self._chosen
        )
        return ListedModel(model, base, self._cache(base.repo), trainable_ways(model))

    def _cache(self, repo: str | None) -> Cache:
        if repo is None:
            return NO_CACHE
        if repo not in self._caches:
            self._caches[repo] = cache_of(repo)
        return self._caches[repo]


def trainable_ways(model: StoredModel) -> Trainable:
    """Return by which ways `model` can be trained, and why not by the others."""
    return Trainable(
        gguf=model.status is ModelStatus.READY,
        hub=False,
        reason=model.reason,
        hub_reason=_HUB_REASON,
    )
