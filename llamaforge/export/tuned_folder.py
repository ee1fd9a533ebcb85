"""A full-precision base with what was learned in it, as a directory that transformers loads."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from llamaforge.catalog.hub_files import CONFIG, Role, role_of
from llamaforge.export.dense import DenseWeights
from llamaforge.export.hugging_face import DTYPES, SHARD_BYTES, Exported, described
from llamaforge.export.place import check_room, new_folder
from llamaforge.export.shards import INDEX_NAME, Planned, ShardWriter, divided, write_index
from llamaforge.export.weights import Array
from llamaforge.files import write_atomic, write_json

_TEMPLATE: Final = "chat_template.jinja"
_COPIED: Final = frozenset({Role.TOKENIZER, Role.EXTRA})


def write_tuned(
    path: Path,
    base: Path,
    weights: DenseWeights,
    *,
    dtype: str,
    chat_template: str,
    replace: bool = False,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Exported:
    """Write `weights` with the tokenizer of `base` to `path`, streamed, whole or not at all.

    Args:
        path: the directory to make.
        base: the folder that was trained on.
        weights: its weights with what was learned; their folder has the configuration.
        dtype: one of `DTYPES`.
        chat_template: Jinja text that was trained with.
        replace: whether a model that lies at `path` may be replaced.
        shard_bytes: the most that one file of weights may hold.
        on_progress: takes the bytes of weights that are written, and all of them.
        stopped: asked between rows; True ends it without a directory.

    Raises:
        InvalidFileError: `path` is taken.
        RefusedError: the disk has no room.
        LlamaForgeError: a weight is not finite (`not_finite`) or does not fit the type
            (`overflow`), or it was `stopped`.
    """
    kind = DTYPES[dtype]
    tensors = [
        Planned(name, tensor.shape, _Reader(weights, name))
        for name, tensor in weights.tensors.items()
    ]
    total = sum(tensor.n_bytes(kind) for tensor in tensors)
    check_room(path, total, "choose a smaller --dtype")
    config = json.loads((weights.folder / CONFIG).read_text(encoding="utf-8"))
    with new_folder(path, replace=replace) as folder:
        write_json(folder / CONFIG, config | {"dtype": dtype, "torch_dtype": dtype})
        for file in sorted(base.iterdir()):
            if role_of(file.name) in _COPIED and file.is_file():
                shutil.copyfile(file, folder / file.name)
        write_atomic(folder / _TEMPLATE, chat_template, mode=0o644)
        shards = divided(tensors, kind, shard_bytes)
        writer = ShardWriter(folder, kind, total, on_progress, stopped)
        digests = {name: writer.write(name, shard) for name, shard in shards}
        write_index(folder / INDEX_NAME, shards, kind)
        exported = described(folder, digests)
    return Exported(path, *exported)


def copy_folder(path: Path, source: Path, *, replace: bool = False) -> Exported:
    """Copy the files of a folder to `path`, whole or not at all.

    Raises:
        InvalidFileError: `path` is taken.
        RefusedError: the disk has no room.
    """
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    check_room(path, total, "remove what is not needed")
    with new_folder(path, replace=replace) as folder:
        for file in files:
            shutil.copyfile(file, folder / file.name)
        exported = described(folder, {})
    return Exported(path, *exported)


class _Reader:
    """Reads one tensor when it is called."""

    def __init__(self, weights: DenseWeights, name: str) -> None:
        self._weights = weights
        self._name = name

    def __call__(self) -> Iterator[Array]:
        """Yield its values in parts."""
        return self._weights.parts(self._name)
