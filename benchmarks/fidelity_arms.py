"""The trainings of `served_fidelity.py`, a process each: on packed blocks, and on dense weights.

Both see the same rows in the same order, with the same rank, rate and number of steps, and write
what they make of the held-out rows afterwards: log probabilities of every trained token.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.peer import write_tokenizer
from benchmarks.step_arms import lora_config, unpacked
from llamaforge import paths
from llamaforge.data.chat import ChatRenderer, EncodedRow
from llamaforge.data.check import Division, collect
from llamaforge.data.encoding import encode_splits
from llamaforge.data.templates import choose_template
from llamaforge.export.adapter import Factors, write_adapter
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.batches import Batch, RowLoader
from llamaforge.training.lora import attach_lora, factors, hidden_states, lora_layers
from llamaforge.training.loss import log_probabilities
from llamaforge.training.model import load_packed_model
from llamaforge.training.objective import Supervised
from llamaforge.training.trainer import Wishes, train
from tools.demo_store import gguf_file, tokenizer
from tools.demo_store.corpus import conversations
from tools.demo_store.pretrain import Schedule, pretrain
from tools.random_models import Vocabulary

_MAX_LENGTH: Final = 512
_TOKENIZER_SEED: Final = 10
_TOKENIZER_CONVERSATIONS: Final = 30_000


def rows_of(header: Header) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Return the demo's rows as tokens: those to train on, and those held out."""
    collected = collect([paths.embedded_data()], max_rejected_fraction=0.0, division=Division(0.1))
    cutter = GgufTokenizer(header)
    template = choose_template(None, cutter.chat_template, cutter.special_ids)
    renderer = ChatRenderer(cutter, template, datetime(2026, 1, 1, tzinfo=UTC))
    rows = encode_splits(collected.splits, renderer, _MAX_LENGTH)
    return [item.row for item in rows.train], [item.row for item in rows.held_out]


def targets_of(row: EncodedRow) -> tuple[list[int], list[int]]:
    """Return where a trained token follows, and those tokens."""
    places = [place for place in range(1, len(row.ids)) if row.trained[place]]
    return [place - 1 for place in places], [row.ids[place] for place in places]


def settings_of(seed: int, epochs: float) -> TrainingSettings:
    """Return the settings of both sides, which are the demo's."""
    return TrainingSettings(
        learning_rate=2e-3,
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        compute_dtype="bfloat16",
        save_steps=1_000_000,
        seed=seed,
    )


def dense(options: argparse.Namespace) -> None:
    """Unpack a GGUF file into a model folder in bfloat16."""
    packed = load_packed_model(read_header(options.source), torch.bfloat16)
    model: Any = unpacked(packed, torch.bfloat16, whole=True).model
    model.to(torch.bfloat16).save_pretrained(options.target)
    write_tokenizer(options.target, Vocabulary.from_file(options.source).values)


def original(options: argparse.Namespace) -> None:
    """Pre-train a model of the demo's kind; writes `hf/` in bfloat16 and `q4_k_m.gguf` of it."""
    sample = itertools.islice(conversations(_TOKENIZER_SEED), _TOKENIZER_CONVERSATIONS)
    own = tokenizer.train(message["content"] for messages in sample for message in messages)
    model = pretrain(own, Schedule(steps=options.steps, compiled=False)).to(torch.bfloat16)
    plain, packed = options.target / "f32.gguf", options.target / "q4_k_m.gguf"
    model.save_pretrained(options.target / "hf")
    gguf_file.write(model, own, plain)
    write_tokenizer(options.target / "hf", Vocabulary.from_file(plain).values)
    gguf_file.quantise(plain, packed)
    plain.unlink()


def ours(options: argparse.Namespace) -> None:
    """Train on the packed blocks; writes `adapter.gguf` and `trained.npy`."""
    header = read_header(options.source)
    training, held_out = rows_of(header)
    settings = settings_of(options.seed, options.epochs)
    packed = load_packed_model(header, torch.bfloat16)
    set_seed(settings.seed)
    model = attach_lora(packed, settings)
    with tempfile.TemporaryDirectory() as folder:
        wishes = Wishes(stop=lambda: False, save=lambda: False)
        outcome = train(
            model,
            Supervised(packed.head, training, [], settings),
            settings,
            Path(folder),
            emit=lambda event: None,
            wishes=wishes,
        )
    layers = {}
    for path, layer in lora_layers(model):
        a, b, scale = factors(layer)
        layers[packed.names[path]] = Factors(a.numpy(), b.numpy(), scale)
    write_adapter(
        options.target / "adapter.gguf", header, layers, name="ours", base_digest="sha256:0"
    )

    def answer(ids: Tensor, positions: list[int]) -> Tensor:
        return log_probabilities(hidden_states(model, ids)[0, positions], packed.head)

    _write_answers(options.target, model, held_out, answer)
    print(json.dumps({"steps": outcome.step}))


class _DenseTrainer(Trainer):  # type: ignore[misc]
    """transformers' loop over a dense model and PEFT's adapter, with our order of rows."""

    def __init__(self, rows: list[EncodedRow], settings: TrainingSettings, **more: Any) -> None:
        self._rows = rows
        self._settings = settings
        super().__init__(**more)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> RowLoader:
        """Return the batches of one epoch."""
        batch = self._settings.per_device_train_batch_size
        return RowLoader(self._rows, batch, self._settings.seed)

    def compute_loss(self, model: Any, inputs: Batch, *_: Any, **__: Any) -> Tensor:
        """Return the model's own mean loss per trained token."""
        return cast("Tensor", model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss)


def peer(options: argparse.Namespace) -> None:
    """Train PEFT's LoRA on a dense model; writes `peft/` and `trained.npy`."""
    training, held_out = rows_of(read_header(options.rows_of))
    settings = settings_of(options.seed, options.epochs)
    base = AutoModelForCausalLM.from_pretrained(options.source, dtype=torch.bfloat16)
    set_seed(settings.seed)
    model = cast("PeftModel", get_peft_model(base, lora_config(settings)))
    steps_an_epoch = -(-len(training) // settings.per_device_train_batch_size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=True,
            seed=settings.seed,
            num_train_epochs=settings.num_train_epochs,
            per_device_train_batch_size=settings.per_device_train_batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_scheduler_type,
            warmup_steps=round(settings.warmup_ratio * settings.num_train_epochs * steps_an_epoch),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = _DenseTrainer(training, settings, model=model, args=arguments)
        trainer.train()
    model.save_pretrained(str(options.target / "peft"))

    def answer(ids: Tensor, positions: list[int]) -> Tensor:
        logits = model(input_ids=ids).logits[0, positions]
        return torch.log_softmax(logits.float(), dim=-1)

    _write_answers(options.target, model, held_out, answer)
    print(json.dumps({"steps": trainer.state.global_step}))


def _write_answers(
    folder: Path,
    model: nn.Module,
    rows: list[EncodedRow],
    answer: Callable[[Tensor, list[int]], Tensor],
) -> None:
    """Write log probabilities of every trained token's place, computed as in training."""
    model.eval()

    def parts() -> Iterator[np.ndarray]:
        for row in rows:
            positions, _ = targets_of(row)
            yield answer(torch.tensor([list(row.ids)]), positions).float().numpy()

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        np.save(folder / "trained.npy", np.concatenate(list(parts())))


def main() -> None:
    """Do one training, or make a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    sides = {side.__name__: side for side in (dense, original, ours, peer)}
    parser.add_argument("side", choices=list(sides))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--steps", type=int, help="original: steps of pre-training")
    parser.add_argument("--rows-of", type=Path, help="the GGUF file whose tokenizer cuts the rows")
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    sides[options.side](options)


if __name__ == "__main__":
    main()
