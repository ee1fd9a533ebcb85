"""All models of this machine: every store that can be read, and the server where one cannot."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamaforge import paths
from llamaforge.catalog.host import resolve_host
from llamaforge.catalog.index import FactsIndex
from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.names import ModelName, parse_name
from llamaforge.catalog.store import Store, StoreEntry, no_model, trainable
from llamaforge.errors import LlamaForgeError, NotFoundError
from llamaforge.paths import StorePlace
from llamaforge.safe_text import safe_line

if TYPE_CHECKING:
    from llamaforge.catalog.served import Served

_NO_STORE: Final = "no_store"


@dataclass
class _Named:
    """What the stores have under one name."""

    shown: str
    name: ModelName | None
    entries: list[tuple[Store, StoreEntry]] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    """Places in the server's list."""


class Inventory:
    """The models of several stores, joined by name and manifest digest.

    `problems` says what could not be looked at; it never keeps the rest from being listed.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        problems: Sequence[LlamaForgeError] = (),
        served: "Served | None" = None,
        index_folder: Path | None = None,
    ) -> None:
        self.stores = tuple(stores)
        self.problems = tuple(problems)
        self._served = served
        self._index_folder = index_folder
        self._named = self._gather()

    @classmethod
    def open(cls, chosen: Sequence[Path] = ()) -> "Inventory":
        """Return the inventory of the stores that were chosen, else of all that Ollama may have.

        A server is asked only where nothing was chosen, and `OLLAMA_HOST` names one or a store of
        this machine cannot be read.

        Raises:
            NotFoundError: a chosen store, or every store, is absent or cannot be read.
        """
        if chosen:
            return cls([Store.open(root) for root in _distinct(chosen)])
        stores, errors = _open_all(paths.store_places())
        unreadable = [root for root, error in errors.items() if error.code != _NO_STORE]
        problems: list[LlamaForgeError] = [errors[root] for root in unreadable]
        # The client library costs more time than the reading of a small store.
        named_server = bool(os.environ.get("OLLAMA_HOST", "").strip())
        served: Served | None = None
        if unreadable or not stores or named_server:
            from llamaforge.catalog.served import ask_server

            try:
                served = ask_server(resolve_host(), unreadable=unreadable)
                stores += _store_of(served, stores)
            except LlamaForgeError as error:
                if named_server:  # nobody else has to know that there is none
                    problems.append(error)
        if not stores and served is None:
            raise next(iter([*(errors[root] for root in unreadable), *errors.values()]))
        return cls(stores, problems=problems, served=served)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all entries in the order of `models`; nothing is opened for them."""
        return tuple(named.shown for named in self._named)

    def models(self) -> Iterator[StoredModel]:
        """Yield all models by name, each as soon as it is read.

        A model that several stores have under one name with one manifest comes once. A bad entry
        comes too, with its status and reason.
        """
        with FactsIndex(self._index_folder) as index:
            loaders = {store.root: store.loader(index) for store in self.stores}
            for named in self._named:
                found: list[StoredModel] = []
                for store, entry in named.entries:
                    _join(found, store.load(loaders[store.root], entry))
                yield from self._with_server(named, found)

    def find(self, name: str) -> StoredModel:
        """Return the model called `name`; upper and lower case are the same.

        Of several with that name the first that can be trained is meant, in the order of the
        stores, else the first.

        Raises:
            UsageError: `name` is not a model's name.
            NotFoundError: there is no such model; near names are offered.
        """
        wanted = parse_name(name)
        named = next((named for named in self._named if named.name == wanted), None)
        if named is None:
            names = [known.name for known in self._named if known.name is not None]
            raise no_model(wanted, names, self.places)
        with FactsIndex(self._index_folder) as index:
            found: list[StoredModel] = []
            # Where a store has both `Mine` and `mine`, the one that was typed comes first.
            exact = sorted(named.entries, key=lambda item: item[1].shown != wanted.short)
            for store, entry in exact:
                _join(found, store.load(store.loader(index), entry))
            found = list(self._with_server(named, found))
        return next((model for model in found if model.problem is None), found[0])

    def require_trainable(self, name: str) -> StoredModel:
        """Return the model called `name` if an adapter can be trained on its blob.

        Raises:
            UsageError, NotFoundError: as `find`.
            RefusedError: it cannot be trained; the message says why, the code in a word.
        """
        return trainable(self.find(name))

    def names_by_blob(self) -> dict[str, list[str]]:
        """Return the full names of the models that share their weights, by the blob's digest.

        Only manifests are read for it; those that cannot be are passed over.
        """
        found: dict[str, list[str]] = {}
        for named in self._named:
            for store, entry in named.entries:
                digest = store.weights_of(entry)
                if named.name is not None and digest:
                    found.setdefault(digest, []).append(named.name.full)
        return {digest: names for digest, names in found.items() if len(names) > 1}

    @property
    def places(self) -> str:
        """Where it looked, in words."""
        found = [safe_line(str(store.root)) for store in self.stores]
        found += [safe_line(self._served.host.url)] if self._served else []
        return " or ".join(found)

    def _gather(self) -> list[_Named]:
        found: dict[str, _Named] = {}
        for store in self.stores:
            for entry in store.entries():
                name = entry.found if isinstance(entry.found, ModelName) else None
                # Two stores may have the same bad place: they are two different things.
                key = entry.key if name else f"{entry.key} {store.root}"
                found.setdefault(key, _Named(entry.shown, name)).entries.append((store, entry))
        for number, tag in enumerate(self._served.tags if self._served else ()):
            key = tag.name.key if tag.name else f"? {number}"
            shown = tag.name.short if tag.name else safe_line(tag.shown)
            found.setdefault(key, _Named(shown, tag.name)).tags.append(number)
        return sorted(found.values(), key=lambda named: (named.shown.lower(), named.shown))

    def _with_server(self, named: _Named, found: list[StoredModel]) -> Iterator[StoredModel]:
        """Yield `found`, marked where the server lists it too, then what only the server has."""
        if self._served is None:
            yield from found
            return
        tags = {self._served.tags[number].digest: number for number in named.tags}
        for model in found:
            listed = model.digest and tags.pop(model.digest, None) is not None
            yield replace(model, server=self._served.host.url) if listed else model
        for number in tags.values():
            yield self._served.model(self._served.tags[number])


def _join(found: list[StoredModel], model: StoredModel) -> None:
    """Add `model`, or its store to the same model that is there already: a whole one wins."""
    for place, other in enumerate(found):
        if model.digest and model.digest == other.digest and model.name == other.name:
            first, second = (other, model) if other.problem is None else (model, other)
            stores = (*other.other_stores, *(store for store in (second.store,) if store))
            found[place] = replace(first, other_stores=stores)
            return
    found.append(model)


def _distinct(roots: Sequence[Path]) -> list[Path]:
    return list({root.resolve(): root for root in reversed(roots)}.values())[::-1]


def disk_bytes(models: Iterable[StoredModel]) -> int:
    """Return the size of what the models are made of; a blob that several share counts once."""
    sizes = {
        (model.store, layer.digest): layer.size
        for model in models
        for layer in (*model.layers, *((model.config_layer,) if model.config_layer else ()))
    }
    return sum(sizes.values())


def _open_all(places: Sequence[StorePlace]) -> tuple[list[Store], dict[Path, NotFoundError]]:
    """Return the stores that can be read, and what is wrong with the other places."""
    stores: list[Store] = []
    errors: dict[Path, NotFoundError] = {}
    for place in places:
        try:
            stores.append(Store.open(place.root))
        except NotFoundError as error:
            errors[place.root] = error
    return stores, errors


def _store_of(served: "Served", known: Sequence[Store]) -> list[Store]:
    """Return the server's own store, where it can be read and is not known yet."""
    roots = {store.root.resolve() for store in known}
    try:
        root = served.store_root()
        if root is None or root.resolve() in roots:
            return []
        return [Store.open(root)]
    except (LlamaForgeError, OSError, RuntimeError, ValueError):
        return []
