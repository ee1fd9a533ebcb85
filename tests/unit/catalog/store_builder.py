"""Tiny Ollama stores for tests: real GGUF files, real digests, and every way to spoil them."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.store import Store
from llamaforge.gguf.types import TensorType, row_bytes

IMAGE = "application/vnd.ollama.image."
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
WIDTH = 256


@dataclass
class Gguf:
    """What a tiny GGUF file says; the defaults are a llama that can be trained."""

    architecture: str = "llama"
    type: TensorType = TensorType.Q4_K
    file_type: int | None = 15
    tokens: int = 32
    context_length: int = 128
    extra: dict[str, int | str | float] = field(default_factory=dict)
    extra_types: dict[str, TensorType] = field(default_factory=dict)
    tensors: bool = True

    def bytes(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            writer = gguf.GGUFWriter(path, self.architecture)
            writer.add_block_count(1)
            writer.add_context_length(self.context_length)
            writer.add_embedding_length(WIDTH)
            writer.add_feed_forward_length(WIDTH)
            writer.add_head_count(4)
            writer.add_head_count_kv(2)
            writer.add_layer_norm_rms_eps(1e-6)
            writer.add_token_list([f"t{number}" for number in range(self.tokens)])
            if self.file_type is not None:
                writer.add_file_type(self.file_type)
            for key, value in self.extra.items():
                if isinstance(value, str):
                    writer.add_string(key, value)
                elif isinstance(value, float):
                    writer.add_float32(key, value)
                else:
                    writer.add_uint32(key, value)
            if self.tensors:
                self._add_tensors(writer)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return path.read_bytes()

    def _add_tensors(self, writer: Any) -> None:
        kinds = {
            "token_embd.weight": TensorType.Q6_K,
            "blk.0.attn_q.weight": self.type,
            "blk.0.ffn_up.weight": self.type,
            "blk.0.ffn_down.weight": TensorType.Q6_K,
        } | self.extra_types
        for name, kind in kinds.items():
            rows = self.tokens if name == "token_embd.weight" else WIDTH
            data = np.zeros((rows, row_bytes(kind, WIDTH)), dtype=np.uint8)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(int(kind)))
        writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))


class StoreBuilder:
    """A store that is being filled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = root / "manifests"
        self.blobs = root / "blobs"
        self.manifests.mkdir(parents=True)
        self.blobs.mkdir()

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-")

    def put(self, data: bytes) -> str:
        """Store a blob; return its digest in the manifests' form."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blob(digest).write_bytes(data)
        return digest

    def layer(self, kind: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": IMAGE + kind, "digest": self.put(data), "size": len(data)}

    def manifest_path(self, name: str) -> Path:
        """Return where `model:tag`, or all four parts with slashes, has its manifest."""
        parts = name.replace(":", "/").split("/")
        defaults = ["registry.ollama.ai", "library"]
        return self.manifests.joinpath(*defaults[: 4 - len(parts)], *parts)

    def write_manifest(self, name: str, body: Any) -> Path:
        path = self.manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        return path

    def add(
        self,
        name: str,
        model: bytes | None = None,
        *,
        config: Any = None,
        layers: Sequence[tuple[str, bytes]] = (),
    ) -> dict[str, Any]:
        """Add a model, a trainable one unless told otherwise; return its manifest."""
        config_data = json.dumps({} if config is None else config).encode()
        blobs = [("model", Gguf().bytes() if model is None else model), *layers]
        body = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": CONFIG_TYPE,
                "digest": self.put(config_data),
                "size": len(config_data),
            },
            "layers": [self.layer(kind, data) for kind, data in blobs],
        }
        self.write_manifest(name, body)
        return body

    def only(self) -> StoredModel:
        """Return the store's one model, as the list has it."""
        (model,) = Store.open(self.root).models()
        return model
