"""Writes a model folder in Ollama's on-disk layout: a manifest and blobs named by digest."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.demo_store.tokenizer import END, GO_TEMPLATE

MANIFEST: Final = Path("manifests/registry.ollama.ai/library/llamaforge-demo/latest")
_OLLAMA: Final = "application/vnd.ollama.image."
_LICENSE: Final = """\
LlamaForge Demo

Model, tokenizer, training text and demonstration data were made by the LlamaForge authors with
the scripts in this project; no outside text or weights went into them.

MIT License

Copyright (c) the LlamaForge authors

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True)
class Layer:
    """One blob as a manifest lists it."""

    media_type: str
    content: bytes

    @property
    def hexdigest(self) -> str:
        """The SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def entry(self) -> dict[str, Any]:
        """Return the manifest's line about this blob; the size is in bytes."""
        return {
            "mediaType": self.media_type,
            "digest": f"sha256:{self.hexdigest}",
            "size": len(self.content),
        }


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def layers(model: bytes, parameters: int) -> tuple[Layer, list[Layer]]:
    """Return the config blob and the layers of a model file with so many parameters."""
    found = [
        Layer(f"{_OLLAMA}model", model),
        Layer(f"{_OLLAMA}template", GO_TEMPLATE.encode()),
        Layer(f"{_OLLAMA}license", _LICENSE.encode()),
        Layer(f"{_OLLAMA}params", _json({"stop": [END], "temperature": 0.2})),
    ]
    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": f"{parameters / 1e6:.1f}M",
        "file_type": "Q4_K_M",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{e.hexdigest}" for e in found]},
    }
    return Layer("application/vnd.docker.container.image.v1+json", _json(config)), found


def write_store(store: Path, model: bytes, parameters: int) -> dict[str, Any]:
    """Replace the store folder as a whole by one that holds this model; return its manifest."""
    config, found = layers(model, parameters)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config.entry(),
        "layers": [layer.entry() for layer in found],
    }
    store.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{store.name}-", dir=store.parent))
    (fresh / "blobs").mkdir()
    for layer in (config, *found):
        (fresh / "blobs" / f"sha256-{layer.hexdigest}").write_bytes(layer.content)
    (fresh / MANIFEST).parent.mkdir(parents=True)
    (fresh / MANIFEST).write_bytes(_json(manifest))
    fresh.chmod(0o755)
    # A directory cannot be renamed over one that has files, so the old one steps aside first.
    old = fresh.with_name(fresh.name + "-old")
    if store.exists():
        store.replace(old)
    fresh.replace(store)
    shutil.rmtree(old, ignore_errors=True)
    return manifest
