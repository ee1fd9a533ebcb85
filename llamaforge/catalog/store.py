"""An Ollama store on disk: its models, each with what can be said of it.

Source of the layout: `types/model/name.go` and `manifest/` of Ollama: a manifest lies at
`manifests/{host}/{namespace}/{model}/{tag}`, a blob at `blobs/sha256-{digest}`. Nothing here
writes to a store.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge.catalog.blobs import Blobs
from llamaforge.catalog.bounded import file_inside, whole_text
from llamaforge.catalog.index import FactsIndex
from llamaforge.catalog.loader import Loader, bad_entry
from llamaforge.catalog.manifest import read_manifest
from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.names import ModelName, name_of_parts, parse_name
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError, UsageError
from llamaforge.safe_text import safe_line

_LEVELS: Final = 4  # host, namespace, model, tag
_OTHER_STORE: Final = "Name the store with --store DIR or OLLAMA_MODELS, or try: llamaforge demo"


@dataclass(frozen=True)
class StoreEntry:
    """A manifest's place with its name, or with what is wrong with the place."""

    path: Path
    shown: str
    """The name as people type it."""
    found: ModelName | LlamaForgeError

    @property
    def key(self) -> str:
        """What is compared: the full name in lower case, or what is shown of a bad place."""
        return self.found.key if isinstance(self.found, ModelName) else f"?{self.shown}"


class Store:
    """The models of one folder in Ollama's layout.

    The folder, its `manifests` and its `blobs` may be links (stores are moved to other disks);
    what lies in them may not lead out of them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = (root / "manifests").resolve()
        self.blobs = Blobs(root)

    @classmethod
    def open(cls, root: Path) -> "Store":
        """Return the store at `root`, which must be a folder that can be listed.

        A folder without `manifests` is a store without models.

        Raises:
            NotFoundError: it does not exist (`no_store`) or cannot be read (`unreadable_store`).
        """
        shown = safe_line(str(root))
        try:
            os.scandir(root).close()
            if (root / "manifests").exists():
                os.scandir(root / "manifests").close()
            return cls(root)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"There is no Ollama store at {shown}.", _OTHER_STORE, code="no_store"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "no valid path"
            raise NotFoundError(
                f"The Ollama store at {shown} cannot be read: {reason}.",
                f"Check its permissions. {_OTHER_STORE}",
                code="unreadable_store",
            ) from error

    def loader(self, index: FactsIndex | None = None) -> Loader:
        """Return what loads this store's models."""
        return Loader(self.root, self.manifests, self.blobs, index)

    def load(self, loader: Loader, entry: StoreEntry) -> StoredModel:
        """Return the model of `entry`; a bad one has a status and a reason."""
        if isinstance(entry.found, ModelName):
            return loader.load(entry.found, entry.path)
        return bad_entry(entry.shown, entry.path, self.root, entry.found)

    def weights_of(self, entry: StoreEntry) -> str:
        """Return the digest of the model layer that a manifest names; empty where it has not one.

        A bad manifest has none: what is wrong with it is said where the model is loaded.
        """
        try:
            manifest = read_manifest(file_inside(self.manifests, entry.path, "the manifest"))
        except LlamaForgeError:
            return ""
        digests = {layer.digest for layer in manifest.layers if layer.kind == "model"}
        return digests.pop() if len(digests) == 1 else ""

    def models(self) -> list[StoredModel]:
        """Return all models by name. A bad entry is in the list, with its status and reason."""
        loader = self.loader()
        return [self.load(loader, entry) for entry in self.entries()]

    def find(self, name: str) -> StoredModel:
        """Return the model called `name`; upper and lower case are the same.

        Raises:
            UsageError: `name` is not a model's name.
            NotFoundError: the store has no such model; near names are offered.
        """
        wanted = parse_name(name)
        entries = self.entries()
        same = [entry for entry in entries if entry.found == wanted]
        if not same:
            names = [entry.found for entry in entries if isinstance(entry.found, ModelName)]
            raise no_model(wanted, names, safe_line(str(self.root)))
        # Where a store has both `Mine` and `mine`, the one that was typed comes first.
        same.sort(key=lambda entry: entry.shown != wanted.short)
        return self.load(self.loader(), same[0])

    def require_trainable(self, name: str) -> StoredModel:
        """Return the model called `name` if an adapter can be trained on its blob.

        Raises:
            UsageError, NotFoundError: as `find`.
            RefusedError: it cannot be trained; the message says why, the code in a word.
        """
        return trainable(self.find(name))

    def entries(self) -> list[StoreEntry]:
        """Return the places of all models by name; nothing is opened."""
        return sorted(
            _walk(self.manifests, self.manifests, ()),
            key=lambda entry: (entry.shown.lower(), entry.shown),
        )


def trainable(model: StoredModel) -> StoredModel:
    """Return `model` if an adapter can be trained on its blob.

    Raises:
        RefusedError: it cannot be trained; the message says why, the code in a word.
    """
    if model.problem is not None:
        raise RefusedError(
            f"{model.name} cannot be trained: {safe_line(model.problem.reason)}.",
            model.problem.hint,
            code=model.problem.code,
        )
    return model


def no_model(wanted: ModelName, names: list[ModelName], places: str) -> NotFoundError:
    """Return the error that says so where none of `names` is the one wanted; near ones help."""
    model = wanted.model.lower()
    near = [name.short for name in names if name.model.lower() == model]
    near += [name.short for name in names if name.model.lower().startswith(model)]
    # Of the models' own names: a tag such as `latest` would make any two alike.
    models = {name.model.lower() for name in names}
    for close in difflib.get_close_matches(model, models, n=3):
        near += [name.short for name in names if name.model.lower() == close]
    near = list(dict.fromkeys(near))[:3]
    if near:
        hint = f"Did you mean {' or '.join(near)}? All models: llamaforge models"
    elif names:
        hint = f"See: llamaforge models; or pull it: ollama pull {wanted.short}"
    else:
        hint = f"The store has no models yet; pull it: ollama pull {wanted.short}"
    return NotFoundError(f"There is no model {wanted.short} in {places}.", hint, code="no_model")


def _walk(top: Path, folder: Path, parts: tuple[str, ...]) -> Iterator[StoreEntry]:
    """Yield what lies four levels deep under `top`; hidden names and other depths are junk."""
    try:
        if not folder.resolve().is_relative_to(top):
            yield _bad_folder(
                folder, parts, "is a link that leads out of the store", "outside_store"
            )
            return
        with os.scandir(folder) as found:
            children = sorted(item.name for item in found if not item.name.startswith("."))
        for child in children:
            path, here = folder / child, (*parts, child)
            if path.is_dir():
                if len(here) < _LEVELS:
                    yield from _walk(top, path, here)
            elif len(here) == _LEVELS:
                yield _entry(path, here)
    except FileNotFoundError:
        return  # a store without models, or a folder removed since it was listed
    except OSError as error:
        yield _bad_folder(folder, parts, f"cannot be read: {error.strerror}", "unreadable")


def _entry(path: Path, parts: tuple[str, ...]) -> StoreEntry:
    host, namespace, model, tag = parts
    try:
        name = name_of_parts(host, namespace, model, tag)
    except UsageError as error:
        shown = whole_text(f"{host}/{namespace}/{model}:{tag}")
        hint = "Remove the file: Ollama itself passes over it."
        return StoreEntry(path, shown, UsageError(error.message, hint, code=error.code))
    return StoreEntry(path, name.short, name)


def _bad_folder(folder: Path, parts: tuple[str, ...], what: str, code: str) -> StoreEntry:
    error = NotFoundError(
        f"the folder {safe_line(str(folder))} {what}.",
        "Check its permissions, and that it lies in the store.",
        code=code,
    )
    return StoreEntry(folder, whole_text("/".join((*parts, "…"))), error)
