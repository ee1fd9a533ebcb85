"""What the publishing tests share: a small adapter, and a request that fits a fake server."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llamaforge.publishing.ollama import publish
from llamaforge.publishing.request import PublishRequest, PublishResult
from llamaforge.publishing.server import Limits
from tests.contract.publishing.fake_ollama import FakeOllama

BASE = "ba5e" * 16  # 64 hexadecimal digits
PATIENT = Limits(retry_pauses_seconds=(0.01, 0.02))
QUICK = Limits(
    connect_seconds=0.5,
    answer_seconds=0.5,
    upload_seconds=0.5,
    create_seconds=0.5,
    load_seconds=0.5,
    retry_pauses_seconds=(0.01, 0.02),
)
"""For servers that hang."""


def write_adapter(path: Path, architecture: str = "llama", kind: str = "adapter") -> str:
    """Write a small GGUF adapter and return its sha256."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 8), dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((8, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Desk:
    """A server that has the base model, and a request that fits it."""

    server: FakeOllama
    request: PublishRequest
    journal: Path
    progress: list[tuple[str, int, int]]

    def publish(self, limits: Limits = PATIENT, **changes: Any) -> PublishResult:
        return publish(
            replace(self.request, **changes),
            journal=self.journal,
            on_progress=lambda what, done, total: self.progress.append((what, done, total)),
            limits=limits,
        )
