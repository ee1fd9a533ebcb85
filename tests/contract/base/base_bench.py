"""A quantised file with the full-precision base that it was made from, for tests of both."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

from llamaforge.data.chat import EncodedRow
from llamaforge.export.layout import Layout
from llamaforge.export.learned import ADAPTER_FILE
from llamaforge.export.merged import Provenance, write_merged
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.spec import ResolvedBase
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.dense import load_dense_model
from llamaforge.training.lora import attach_lora, compute_type
from llamaforge.training.model import LoadedModel
from llamaforge.training.objective import Supervised
from llamaforge.training.trainer import Outcome, Wishes, train
from tests.contract.engine.engine_bench import SETTINGS, VOCABULARY, make_rows
from tests.contract.export.hub_bench import TEMPLATE, Bench
from tools.architecture_models import write_architecture_model

NEVER = Wishes(stop=lambda: False, save=lambda: False)
ON_BASE = SETTINGS.model_copy(update={"base": "hub"})
PROVENANCE = Provenance("mine", "run", "model:tag", "sha256:0", "test")


@dataclass(frozen=True)
class Pair:
    """The base, and the file that was packed of the same weights."""

    folder: Path
    """Holds the base: configuration, tokenizer and safetensors in float32."""
    header: Header
    """The file that would be served."""
    layout: Layout

    @property
    def resolved(self) -> ResolvedBase:
        return ResolvedBase(
            repo=str(self.folder), revision=None, folder=self.folder, chat_template=TEMPLATE
        )


def make_pair(folder: Path, name: str = "llama", quantization: str = "Q8_0") -> Pair:
    """Make a random model of an architecture, by the names of `architecture_models`."""
    path = write_architecture_model(folder / "whole.gguf", name, VOCABULARY, "F32", seed=1)
    bench = Bench.make(path)
    base = bench.export("base", merged=False)
    packed = write_merged(
        folder / "packed.gguf", bench.header, None, PROVENANCE, quantization=quantization
    )
    return Pair(base.path, read_header(packed.path), bench.layout)


def with_spare_rows(pair: Pair, folder: Path, count: int = 8) -> Pair:
    """Return the pair with a base whose tables have rows that stand for no token, as Gemma 3's."""
    shutil.copytree(pair.folder, folder)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    config = json.loads((folder / "config.json").read_text())
    for name, value in tensors.items():
        if name in {"model.embed_tokens.weight", "lm_head.weight"}:
            tensors[name] = torch.cat([value, torch.randn(count, value.shape[1])])
    save_file(tensors, file, metadata={"format": "pt"})
    config["vocab_size"] += count
    (folder / "config.json").write_text(json.dumps(config))
    return replace(pair, folder=folder)


class Session:
    """One training on a base, with what it reported."""

    def __init__(self, pair: Pair, folder: Path, settings: TrainingSettings = ON_BASE) -> None:
        self.pair, self.folder, self.settings = pair, folder, settings
        set_seed(settings.seed)
        self.loaded: LoadedModel = load_dense_model(
            pair.folder,
            pair.header,
            compute_type(settings.compute_dtype) if settings.use_peft else torch.float32,
            load_in_4bit=settings.load_in_4bit,
            all_trained=not settings.use_peft,
        )
        self.model: Any = (
            attach_lora(self.loaded, settings) if settings.use_peft else self.loaded.model
        )
        self.rows = make_rows(16)
        self.events: list[events.Event] = []

    def run(self, wishes: Wishes = NEVER, validation: Sequence[EncodedRow] = ()) -> Outcome:
        return train(
            self.model,
            Supervised(self.loaded.head, self.rows, validation, self.settings),
            self.settings,
            self.folder,
            emit=self.events.append,
            wishes=wishes,
        )

    @property
    def losses(self) -> list[float]:
        return [
            event.loss
            for event in self.events
            if isinstance(event, events.Step) and event.loss is not None
        ]

    @property
    def learned(self) -> Path:
        """The file of what was learned, in the newest checkpoint."""
        newest = max(self.folder.glob("step-*"))
        return newest / (ADAPTER_FILE if self.settings.use_peft else "model.safetensors")
