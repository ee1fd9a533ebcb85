"""A model and its adapter as a directory that transformers and vLLM load, streamed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge.export.config_file import model_config
from llamaforge.export.layout import Layout
from llamaforge.export.parameters import planned_tensors
from llamaforge.export.place import check_folder, check_room, new_folder
from llamaforge.export.shards import INDEX_NAME, ShardWriter, divided, write_index
from llamaforge.export.tokenizer_files import generation_config, write_tokenizer
from llamaforge.export.weights import MergedWeights
from llamaforge.files import sha256_of, write_json
from llamaforge.gguf.header import Header
from llamaforge.gguf.keys import whole
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.gguf.types import TensorType

DTYPES: Final = {
    "bfloat16": TensorType.BF16,
    "float16": TensorType.F16,
    "float32": TensorType.F32,
}
"""The types of weights, by torch's names."""
SHARD_BYTES: Final = 4_000_000_000


@dataclass(frozen=True)
class Exported:
    """A directory that was written."""

    path: Path
    sha256: str
    """Of the lines `<sha256>  <name>` of its files, sorted by name."""
    size_bytes: int
    files: tuple[str, ...]


def write_hugging_face(
    path: Path,
    base: Header,
    adapter: Header | None,
    layout: Layout,
    *,
    dtype: str,
    chat_template: str,
    replace: bool = False,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Exported:
    """Write `base` with `adapter` merged into its weights to `path`, whole or not at all.

    Args:
        path: the directory to make.
        base: the file that was trained on.
        adapter: what was trained; None only unpacks the base.
        layout: how transformers lays out the model of `base`.
        dtype: one of `DTYPES`.
        chat_template: Jinja text.
        replace: whether a model that lies at `path` may be replaced.
        shard_bytes: the most that one file of weights may hold.
        on_progress: takes the bytes of weights that are written, and all of them.
        stopped: asked between rows; True ends it without a directory.

    Raises:
        InvalidFileError: the adapter is damaged or made for another file, or `path` is taken.
        RefusedError: the disk has no room.
        LlamaForgeError: a merged weight is not finite (`not_finite`) or does not fit the type
            (`overflow`), or it was `stopped`.
    """
    check_folder(path, replace=replace)
    tokenizer = GgufTokenizer(base)
    tensors = planned_tensors(MergedWeights(base, adapter), layout)
    kind = DTYPES[dtype]
    total = sum(tensor.n_bytes(kind) for tensor in tensors)
    check_room(path, total, "choose a smaller --dtype")
    with new_folder(path, replace=replace) as folder:
        write_json(folder / "config.json", model_config(layout.config, dtype))
        write_json(folder / "generation_config.json", generation_config(tokenizer))
        write_tokenizer(
            folder,
            tokenizer,
            chat_template=chat_template,
            context_length=whole(base, "context_length"),
        )
        shards = divided(tensors, kind, shard_bytes)
        writer = ShardWriter(folder, kind, total, on_progress, stopped)
        digests = {name: writer.write(name, shard) for name, shard in shards}
        write_index(folder / INDEX_NAME, shards, kind)
        exported = described(folder, digests)
    return Exported(path, *exported)


def described(folder: Path, digests: dict[str, str]) -> tuple[str, int, tuple[str, ...]]:
    """Return digest, bytes and names of the files in a folder.

    `digests` has those sha256 that are known already.
    """
    names = sorted(item.name for item in folder.iterdir())
    lines = [f"{digests.get(name) or sha256_of(folder / name)}  {name}\n" for name in names]
    size = sum((folder / name).stat().st_size for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest(), size, tuple(names)
