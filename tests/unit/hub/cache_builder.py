"""Writes repositories into a Hub cache, in the layout of the Hugging Face libraries."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

REPO = "maker/tiny"
FIRST = "a" * 40
SECOND = "b" * 40

TOKENIZER = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}
SMALL = {"config.json": b'{"model_type": "llama"}', **TOKENIZER}


def weights(tensor_bytes: int, name: str = "w") -> bytes:
    """Return a safetensors file with one tensor of so many bytes."""
    return bytes(save({name: np.zeros(tensor_bytes, np.uint8)}))


def shard_name(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:05}.safetensors"


def sharded(*tensor_bytes: int) -> dict[str, bytes]:
    """Return shards of these sizes, and their index."""
    count = len(tensor_bytes)
    names = [shard_name(number + 1, count) for number in range(count)]
    files = {name: weights(size, name) for name, size in zip(names, tensor_bytes, strict=True)}
    index = {
        "metadata": {"total_size": sum(tensor_bytes)},
        "weight_map": {f"layer.{number}": name for number, name in enumerate(names)},
    }
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


def whole(tensor_bytes: int = 1000) -> dict[str, bytes]:
    """Return all files of a base whose weights are in one file."""
    return SMALL | {"model.safetensors": weights(tensor_bytes)}


def etag_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class RepoBuilder:
    """One repository of a cache."""

    def __init__(self, cache: Path, repo: str = REPO, *, links: bool = True) -> None:
        self.place = cache / f"models--{repo.replace('/', '--')}"
        self.links = links

    def snapshot(self, commit: str) -> Path:
        return self.place / "snapshots" / commit

    def blob(self, content: bytes) -> Path:
        return self.place / "blobs" / etag_of(content)

    def ref(self, name: str, commit: str) -> None:
        path = self.place / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)

    def commit(self, commit: str, files: dict[str, bytes], *, ref: str | None = None) -> Path:
        folder = self.snapshot(commit)
        folder.mkdir(parents=True)
        for name, content in files.items():
            self.add(commit, name, content)
        if ref is not None:
            self.ref(ref, commit)
        return folder

    def add(self, commit: str, name: str, content: bytes) -> None:
        pointer = self.snapshot(commit) / name
        if not self.links:
            pointer.write_bytes(content)
            return
        blob = self.blob(content)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        pointer.symlink_to(Path("..", "..", "blobs", blob.name))

    def unfinished(self, name: str, size: int) -> None:
        path = self.place / "blobs" / f"{name}.incomplete"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))

    def listing(self, commit: str, files: dict[str, bytes]) -> None:
        entries = {}
        for name, content in files.items():
            entry: dict[str, object] = {"size": len(content), "blob_id": "c" * 40}
            if name.endswith(".safetensors"):
                entry |= {"lfs_sha256": etag_of(content), "lfs_size": len(content)}
            entries[name] = entry
        path = self.place / "trees" / f"{commit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format_version": 1, "files": entries}))

    def absent(self, commit: str, name: str) -> None:
        path = self.place / ".no_exist" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
