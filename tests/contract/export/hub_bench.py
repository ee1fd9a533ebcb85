"""Exported directories, and what transformers and llama.cpp make of the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from llamaforge.evaluation.llama import Server
from llamaforge.export.adapter import write_adapter
from llamaforge.export.hugging_face import Exported, write_hugging_face
from llamaforge.export.layout import Layout
from llamaforge.export.peft_adapter import PeftSettings, write_peft
from llamaforge.gguf.architectures import architecture_of
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.worker.layout import model_layout
from llamaforge.worker.trained import Trained
from tests.contract.engine.engine_bench import SETTINGS, make_trained
from tools.architecture_models import RECIPES

IDS = [7, 30, 2, 99, 41, 12, 5, 80, 61, 17]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
Array = npt.NDArray[np.float64]
STILL = ("qwen2vl-still", "qwen3vl", "qwen3vlmoe")
"""llama.cpp turns less of these than transformers does."""
EXPORTED = [name for name in RECIPES if name not in STILL]


@dataclass(frozen=True)
class Bench:
    """A model, an adapter on it, and where exports go."""

    folder: Path
    header: Header
    trained: Trained
    adapter: Header
    layout: Layout
    settings: TrainingSettings = SETTINGS

    @staticmethod
    def make(path: Path, settings: TrainingSettings = SETTINGS) -> "Bench":
        """Lay a random adapter over the model at `path`."""
        header = read_header(path)
        trained = make_trained(header, settings)
        adapter = path.with_name("adapter.gguf")
        write_adapter(adapter, header, trained.layers(), name="mine", base_digest="sha256:0")
        layout = Layout.model_validate_json(model_layout(header).model_dump_json())
        return Bench(path.parent, header, trained, read_header(adapter), layout, settings)

    def export(self, name: str = "hf", *, merged: bool = True, **more: Any) -> Exported:
        """Write the model as a directory."""
        options: dict[str, Any] = {"dtype": "float32", "chat_template": TEMPLATE} | more
        adapter = self.adapter if merged else None
        return write_hugging_face(self.folder / name, self.header, adapter, self.layout, **options)

    def export_peft(self, base_model: str | None = None, **more: Any) -> Exported:
        """Write the adapter as a directory."""
        chosen = self.settings
        settings = PeftSettings(chosen.lora_r, chosen.lora_alpha, 0.0, chosen.use_rslora)
        return write_peft(
            self.folder / "peft",
            self.header,
            self.adapter,
            self.layout,
            settings,
            base_model=base_model,
            **more,
        )

    def load(self, exported: Exported) -> tuple[Any, dict[str, Any]]:
        """Return what transformers makes of a directory, and what it says of its keys."""
        model, said = AutoModelForCausalLM.from_pretrained(
            exported.path,
            attn_implementation=architecture_of(self.header).attention,
            dtype="auto",
            output_loading_info=True,
        )
        return model.eval(), {key: value for key, value in said.items() if value}

    def packed(self, strength: float = 1.0, ids: Sequence[int] = IDS) -> Array:
        """Return the packed model's log probabilities, with the adapter at `strength`."""
        found = self.trained.log_probabilities(ids, range(len(ids)), strength=strength)
        return found.astype(np.float64)

    def served(self, ids: Sequence[int] = IDS) -> Array:
        """Return llama.cpp's log probabilities for the file with the adapter."""
        with Server(self.header.path, context=128, adapter=self.adapter.path) as server:
            server.use_adapter(True)
            return server.log_probabilities(ids, range(len(ids))).astype(np.float64)


def answers(model: Any, ids: Sequence[int] = IDS) -> Array:
    """Return the log probabilities of a transformers model."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0]
        found: Array = torch.log_softmax(logits.double(), dim=-1).numpy()
        return found


def largest(p: Array, q: Array) -> float:
    """Return the largest KL(p ‖ q) of any token, in nats."""
    return float((np.exp(p) * (p - q)).sum(axis=-1).max())
