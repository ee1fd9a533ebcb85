"""One arm of `lora_step.py`: a process that loads a model and does one LoRA step a request.

It answers on its standard output, a JSON object a line: first that it is ready, then each step.
What libraries print goes to standard error.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import peak_bytes
from llamaforge.data.chat import EncodedRow
from llamaforge.gguf.header import read_header
from llamaforge.gguf.types import TensorType
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.lora import attach_lora
from llamaforge.training.model import PackedModel, load_packed_model
from llamaforge.training.objective import Supervised, token_loss
from llamaforge.training.packed import PackedEmbedding, PackedLinear, PackedWeight
from llamaforge.training.trainer import Wishes, train

_STEPS: Final = 1_000_000
"""Steps that a trainer is told to do; it is stopped long before."""
_ROWS: Final = 64
MIXED_ROWS: Final = 24
"""Rows of mixed lengths: so few that every arm sees all of them in some steps."""
_LEARNING_RATE: Final = 2e-4


class Line:
    """The conversation with `lora_step.py`: a request a step, an answer a step."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, **fields: object) -> None:
        """Send one answer."""
        self._answers.write(json.dumps(fields) + "\n")

    @staticmethod
    def asked() -> bool:
        """Wait, and return whether another step is wanted."""
        return sys.stdin.readline().strip() == "step"


def rows_of(vocabulary: int, length: int) -> Tensor:
    """Return the token ids that every arm trains on, shape [_ROWS, length]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (_ROWS, length), generator=generator)


def mixed_rows(vocabulary: int, longest: int) -> list[EncodedRow]:
    """Return rows as chats have them: most are short, some long, the second half is an answer."""
    draw = random.Random(0)
    rows = []
    for _ in range(MIXED_ROWS):
        length = max(16, min(longest, round(draw.lognormvariate(math.log(longest / 3), 0.6))))
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        rows.append(EncodedRow(ids, [place >= length // 2 for place in range(length)], True))
    return rows


def even_rows(ids: Tensor) -> list[EncodedRow]:
    """Return rows of which every token is trained."""
    return [EncodedRow(row, [True] * len(row), terminated=True) for row in ids.tolist()]


def settings_of(batch: int, dtype: str) -> TrainingSettings:
    """Return the settings that every arm trains with."""
    return TrainingSettings(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        learning_rate=_LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        max_steps=_STEPS,
        save_steps=_STEPS,
        compute_dtype="bfloat16" if dtype == "bfloat16" else "float32",
    )


def lora_config(settings: TrainingSettings) -> LoraConfig:
    """Return PEFT's configuration for the same adapter as `attach_lora` makes."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=int(settings.lora_alpha),
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def unpacked(packed: PackedModel, dtype: torch.dtype, *, whole: bool) -> PackedModel:
    """Return the same model with dense matrices of `dtype`; also embedding and head if `whole`."""
    kind = TensorType.BF16 if dtype is torch.bfloat16 else TensorType.F32
    dense = packed.head.weight.unpack(dtype)
    head = PackedWeight(dense.view(torch.uint8), kind, *dense.shape)
    model = packed.model
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(module, PackedEmbedding):
            replacement: nn.Module = PackedEmbedding(head, dtype)
            if whole:
                replacement = nn.Embedding.from_pretrained(dense)  # type: ignore[no-untyped-call]
        elif isinstance(module, PackedLinear):
            is_head = name == "lm_head"
            if is_head and not whole:
                continue
            weight = dense if is_head else module.packed.unpack(dtype)
            replacement = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            replacement.weight = nn.Parameter(weight, requires_grad=False)
            replacement.bias = module.bias
        else:
            continue
        setattr(model.get_submodule(parent), name, replacement)
    return PackedModel(model, replace(packed.head, weight=head), packed.names)


def optimizer_step(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], line: Line, rows: Tensor, batch: int
) -> None:
    """Answer requests with steps of a bare loop: forward, loss, backward, clipping, AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=_LEARNING_RATE, weight_decay=0.0, fused=True)
    model.train()
    done = 0
    while line.asked():
        start = done * batch % len(rows)
        ids = rows[start : start + batch]
        started = time.perf_counter()
        loss = loss_of(ids)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        line.say(seconds=time.perf_counter() - started, loss=float(loss.detach()))
        done += 1


def bare(
    arm: str,
    packed: PackedModel,
    dtype: torch.dtype,
    settings: TrainingSettings,
    line: Line,
    rows: Tensor,
) -> None:
    """Our loss and adapter, over packed or over dense matrices."""
    source = packed if arm == "packed" else unpacked(packed, dtype, whole=False)
    torch.manual_seed(settings.seed)
    model = attach_lora(source, settings)

    def loss_of(ids: Tensor) -> Tensor:
        total, count = token_loss(model, source.head, ids, ids, dtype)
        return total / count

    line.say(ready=True, rss=psutil.Process().memory_info().rss)
    optimizer_step(model, loss_of, line, rows, settings.per_device_train_batch_size)


def plain(
    packed: PackedModel, dtype: torch.dtype, settings: TrainingSettings, line: Line, rows: Tensor
) -> None:
    """A transformers model and PEFT as they come: dense weights, whole logits."""
    source = unpacked(packed, dtype, whole=True)
    torch.manual_seed(settings.seed)
    model = get_peft_model(cast("nn.Module", source.model), lora_config(settings))

    def loss_of(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return cast("Tensor", model(input_ids=ids, labels=ids).loss)

    line.say(ready=True, rss=psutil.Process().memory_info().rss)
    optimizer_step(model, loss_of, line, rows, settings.per_device_train_batch_size)


class _Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Times the steps of TRL's trainer, and has it wait for requests between them."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._started = 0.0
        self._seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, state
        self._line.say(ready=True, rss=psutil.Process().memory_info().rss)
        control.should_training_stop = not self._line.asked()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, state, control
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, state, control
        self._seconds = time.perf_counter() - self._started

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        del args, state
        if logs and "loss" in logs:
            self._line.say(seconds=self._seconds, loss=float(logs["loss"]))
            control.should_training_stop = not self._line.asked()


def trl(
    packed: PackedModel,
    arm: str,
    settings: TrainingSettings,
    line: Line,
    rows: Sequence[EncodedRow],
) -> None:
    """TRL's SFTTrainer: float32 weights; `trl` as it comes, else without mixed precision."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    source = unpacked(packed, torch.float32, whole=True)
    tokenizer = PreTrainedTokenizerFast(  # the rows are tokens already; it only pads
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    choices: dict[str, Any] = {} if arm == "trl" else {"bf16": False}
    if arm == "trl-plain":
        choices["gradient_checkpointing"] = False
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=settings.per_device_train_batch_size,
            learning_rate=_LEARNING_RATE,
            lr_scheduler_type="constant",
            max_steps=_STEPS,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            completion_only_loss=True,
            **choices,
        )
        trainer = SFTTrainer(
            model=source.model,
            args=arguments,
            train_dataset=Dataset.from_dict(
                {
                    "input_ids": [row.ids for row in rows],
                    "completion_mask": [[int(one) for one in row.trained] for row in rows],
                }
            ),
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[_Stopwatch(line)],
        )
        trainer.train()


def trainer(
    packed: PackedModel, settings: TrainingSettings, line: Line, rows: Sequence[EncodedRow]
) -> None:
    """LlamaForge's own training loop, as the worker calls it."""
    torch.manual_seed(settings.seed)
    model: PeftModel = attach_lora(packed, settings)
    more = True
    started = 0.0

    def wait() -> None:
        nonlocal more, started
        more = line.asked()
        started = time.perf_counter()

    def emit(event: events.Event) -> None:
        # Asked to stop, the loop does one more step, whose answer nobody waits for.
        if isinstance(event, events.Step) and more:
            line.say(seconds=time.perf_counter() - started, loss=event.loss)
            wait()

    line.say(ready=True, rss=psutil.Process().memory_info().rss)
    wait()
    with tempfile.TemporaryDirectory() as folder:
        wishes = Wishes(stop=lambda: not more, save=lambda: False)
        objective = Supervised(packed.head, rows, [], settings)
        train(model, objective, settings, Path(folder), emit=emit, wishes=wishes)


def main() -> None:
    """Load the arm's model, answer requests, and say last how much memory it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arm")
    parser.add_argument("dtype", choices=["bfloat16", "float32"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--mixed", action="store_true", help="rows of mixed lengths")
    options = parser.parse_args()
    line = Line()
    imported = psutil.Process().memory_info().rss
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[options.dtype]
    settings = settings_of(options.batch, options.dtype)
    packed = load_packed_model(read_header(options.model), dtype)
    rows = rows_of(packed.head.weight.rows, options.length)
    if options.arm in {"packed", "dense"}:
        bare(options.arm, packed, dtype, settings, line, rows)
    elif options.arm == "peft":
        plain(packed, dtype, settings, line, rows)
    else:
        encoded = even_rows(rows)
        if options.mixed:
            encoded = mixed_rows(packed.head.weight.rows, options.length)
        if options.arm == "trainer":
            trainer(packed, settings, line, encoded)
        else:
            trl(packed, options.arm, settings, line, encoded)
    line.say(peak_bytes=peak_bytes(), imported_bytes=imported)


if __name__ == "__main__":
    main()
