"""Training is the same whether weights are packed, batches are cut up, or the worker dies."""

import errno
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional

from llamaforge.data.chat import EncodedRow
from llamaforge.errors import LlamaForgeError
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training import trainer as trainer_module
from llamaforge.training.batches import LengthBatches, RowLoader, collate
from llamaforge.training.checkpoints import commit_checkpoint, newest_checkpoint, step_of
from llamaforge.training.generate import Generated, answering, greedy_answer
from llamaforge.training.lora import (
    attach_lora,
    compute_type,
    factors,
    hidden_states,
    lora_layers,
)
from llamaforge.training.loss import IGNORED_LABEL, log_probabilities
from llamaforge.training.model import load_packed_model
from llamaforge.training.objective import Supervised, token_loss
from llamaforge.training.trainer import Outcome, Probes, Wishes, train
from tests.contract.engine.engine_bench import (
    SETTINGS,
    VOCABULARY,
    make_lora,
    make_model,
    make_rows,
    unpack_in_place,
)
from tools.architecture_models import write_architecture_model

NEVER = Wishes(stop=lambda: False, save=lambda: False)


class Session:
    """One training of a small model, with what it reported."""

    def __init__(
        self,
        header: Header,
        folder: Path,
        settings: TrainingSettings = SETTINGS,
        *,
        packed: bool = True,
        rows: Sequence[EncodedRow] | None = None,
    ) -> None:
        self.packed = load_packed_model(header, compute_type(settings.compute_dtype))
        self.settings = settings
        self.folder = folder
        if not packed:
            unpack_in_place(self.packed)
        torch.manual_seed(0)
        self.model: PeftModel = attach_lora(self.packed, settings)
        self.rows = make_rows(16) if rows is None else rows
        self.events: list[events.Event] = []

    def run(
        self,
        wishes: Wishes = NEVER,
        validation: Sequence[EncodedRow] = (),
        probes: Probes | None = None,
    ) -> Outcome:
        return train(
            self.model,
            Supervised(self.packed.head, self.rows, validation, self.settings),
            self.settings,
            self.folder,
            emit=self.events.append,
            wishes=wishes,
            probes=probes,
        )

    @property
    def losses(self) -> list[float]:
        return [
            event.loss
            for event in self.events
            if isinstance(event, events.Step) and event.loss is not None
        ]

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{path}.{part}": value
            for path, layer in lora_layers(self.model)
            for part, value in zip("ab", factors(layer)[:2], strict=True)
        }


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0"])
def test_packed_and_unpacked_training_have_one_trajectory(
    quantization: str, tmp_path: Path
) -> None:
    header = make_model(tmp_path, quantization)
    packed = Session(header, tmp_path / "a")
    packed.run()
    plain = Session(header, tmp_path / "b", packed=False)
    plain.run()
    assert len(packed.losses) == 6
    assert packed.losses[-1] < packed.losses[0] - 0.05, "it must have learned something"
    assert packed.losses == pytest.approx(plain.losses, abs=1e-5)


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    packed, model = make_lora(header)
    unpacked, dense = make_lora(header)
    unpack_in_place(unpacked)
    batch = collate(make_rows(3))
    total, count = token_loss(
        model, packed.head, batch["input_ids"], batch["labels"], torch.float32
    )
    mask = (torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]).long()
    theirs = dense(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    assert total.item() / count == pytest.approx(theirs.item(), abs=1e-5)


def test_every_trained_token_counts_the_same_however_a_step_is_cut_up(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_rows(8, longest=60)
    whole = Session(
        header,
        tmp_path / "a",
        SETTINGS.model_copy(update={"per_device_train_batch_size": 8, "max_steps": 4}),
        rows=rows,
    )
    cut = Session(
        header,
        tmp_path / "b",
        SETTINGS.model_copy(
            update={
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 8,
                "max_steps": 4,
            }
        ),
        rows=rows,
    )
    whole.run()
    cut.run()
    assert whole.losses == pytest.approx(cut.losses, abs=2e-5)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    settings = SETTINGS.model_copy(
        update={"max_steps": 9, "lora_dropout": 0.1, "gradient_accumulation_steps": 2}
    )
    through = Session(header, tmp_path / "a", settings)
    assert through.run() == Outcome(9, 9, stopped=False)

    first = Session(header, tmp_path / "b", settings)
    stop = Wishes(stop=lambda: len(first.losses) >= 4, save=lambda: False)
    outcome = first.run(stop)
    assert outcome.stopped
    assert 4 <= outcome.step < 9
    second = Session(header, tmp_path / "b", settings)
    assert second.run() == Outcome(9, 9, stopped=False)

    assert first.losses + second.losses == through.losses
    ours, theirs = second.weights(), through.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("step", range(1, 6))
def test_a_run_killed_after_any_step_ends_bit_for_bit_as_if_it_had_not_been(
    step: int, tmp_path: Path
) -> None:
    header = make_model(tmp_path)
    settings = SETTINGS.model_copy(
        update={
            "lora_dropout": 0.1,
            "save_steps": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
        }
    )
    rows = make_rows(11)  # the last step of an epoch is not full, and an epoch ends midway
    through = Session(header, tmp_path / "a", settings, rows=rows)
    through.run()

    class KilledError(BaseException):
        """What no one catches."""

    def kill() -> bool:
        if len(first.losses) == step:
            raise KilledError
        return False

    first = Session(header, tmp_path / "b", settings, rows=rows)
    with pytest.raises(KilledError):
        first.run(Wishes(stop=kill, save=lambda: False))
    second = Session(header, tmp_path / "b", settings, rows=rows)
    second.run()
    saved = step // 2 * 2
    assert first.losses[:saved] + second.losses == through.losses
    ours, theirs = second.weights(), through.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_goes_on_over_the_same_rows_with_half_the_batch(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_rows(22)
    whole = SETTINGS.model_copy(
        update={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 9}
    )
    halved = whole.model_copy(
        update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    )
    through = Session(header, tmp_path / "a", whole, rows=rows)
    through.run()
    first = Session(header, tmp_path / "b", whole, rows=rows)
    first.run(Wishes(stop=lambda: len(first.losses) == 4, save=lambda: False))
    second = Session(header, tmp_path / "b", halved, rows=rows)
    second.run()
    assert first.losses + second.losses == pytest.approx(through.losses, abs=2e-5)


def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    settings = SETTINGS.model_copy(update={"save_steps": 2})
    through = Session(header, tmp_path / "a", settings)
    through.run()
    session = Session(header, tmp_path / "b", settings)
    asked: list[int] = []

    def space(needed: int) -> bool:
        asked.append(needed)
        return True

    real = commit_checkpoint
    calls = iter([False, True, False, False])  # full while the second one is written

    def commit(written: Path, folder: Path, step: int) -> Path:
        if next(calls):
            (written / "adapter_model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(written, folder, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "commit_checkpoint", commit)
        session.run(Wishes(stop=lambda: False, save=lambda: False, space=space))
    saved = [event.step for event in session.events if isinstance(event, events.Checkpoint)]
    assert saved == [2, 4, 6]
    size = sum(path.stat().st_size for path in (session.folder / "step-000006").iterdir())
    assert len(asked) == 4
    assert all(size <= needed <= size + 8_000_000 for needed in asked)
    assert session.losses == through.losses


def test_a_full_disk_that_has_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(make_model(tmp_path), tmp_path / "a")

    def commit(written: Path, folder: Path, step: int) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer_module, "commit_checkpoint", commit)
    with pytest.raises(OSError, match="No space"):
        session.run(Wishes(stop=lambda: False, save=lambda: False, space=lambda _: False))


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"save_steps": 1})
    session = Session(make_model(tmp_path), tmp_path / "a", settings)
    trained = next(item for item in session.model.parameters() if item.requires_grad)

    def poison() -> bool:
        if len(session.losses) == 2:
            trained.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
        return False

    with pytest.raises(LlamaForgeError) as caught:
        session.run(Wishes(stop=poison, save=lambda: False))
    assert caught.value.code == "diverged"
    assert "The gradient of step 3" in caught.value.message
    assert "step 2 is kept" in caught.value.message
    newest, damaged = newest_checkpoint(session.folder)
    assert newest is not None
    assert (step_of(newest), damaged) == (2, [])


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    settings = SETTINGS.model_copy(update={"save_steps": 2})
    through = Session(header, tmp_path / "a", settings)
    through.run()
    newest = tmp_path / "a" / "step-000006" / "adapter_model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    again = Session(header, tmp_path / "a", settings)
    again.run()
    assert again.losses == through.losses[4:]
    warnings = [event for event in again.events if isinstance(event, events.Warn)]
    assert [event.code for event in warnings] == ["damaged_checkpoint"]
    assert all(torch.equal(a, b) for a, b in zip(
        again.weights().values(), through.weights().values(), strict=True
    ))  # fmt: skip


def test_a_finished_training_is_read_back_and_not_repeated(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    through = Session(header, tmp_path / "a")
    through.run()
    again = Session(header, tmp_path / "a")
    assert again.run() == Outcome(6, 6, stopped=False)
    assert not again.losses
    assert all(
        torch.equal(again.weights()[name], value) for name, value in through.weights().items()
    )


def test_a_checkpoint_is_saved_when_it_is_asked_for(tmp_path: Path) -> None:
    wishes = iter([False, True, False, False, False, False])
    session = Session(make_model(tmp_path), tmp_path / "a")
    session.run(Wishes(stop=lambda: False, save=lambda: next(wishes)))
    saved = [event.step for event in session.events if isinstance(event, events.Checkpoint)]
    assert saved == [2, 6]


class Asking:
    """Probes that answer one prompt with and without the adapter, and note what was said."""

    def __init__(self, session: "Session", prompt: Sequence[int]) -> None:
        self.session = session
        self.prompt = prompt
        self.said: list[tuple[int, list[int], list[int]]] = []

    def at_eval(self, step: int) -> None:
        answers: list[list[int]] = []
        for with_adapter in (False, True):
            with answering(self.session.model, with_adapter=with_adapter):
                answer = greedy_answer(
                    self.session.model,
                    self.session.packed.head,
                    self.prompt,
                    dtype=torch.float32,
                    end_ids=(),
                    max_new_tokens=5,
                    seconds=60,
                )
            assert answer.cut
            answers.append(answer.ids)
        base, tuned = answers
        self.said.append((step, base, tuned))

    def asked(self, step: int, prompts: Sequence[str]) -> None:
        del prompts
        self.at_eval(step)


def test_answers_during_training_change_nothing_and_are_those_of_the_model(
    tmp_path: Path,
) -> None:
    header = make_model(tmp_path)
    settings = SETTINGS.model_copy(update={"lora_dropout": 0.2, "eval_steps": 2})
    quiet = Session(header, tmp_path / "a", settings)
    quiet.run()
    session = Session(header, tmp_path / "b", settings)
    probes = Asking(session, make_rows(1)[0].ids)
    wishes: Iterator[list[str] | None] = iter([None, None, []])
    session.run(
        Wishes(stop=lambda: False, save=lambda: False, samples=lambda: next(wishes, None)),
        probes=probes,
    )
    assert session.losses == quiet.losses
    assert all(torch.equal(a, b) for a, b in zip(
        session.weights().values(), quiet.weights().values(), strict=True
    ))  # fmt: skip
    assert [step for step, _, _ in probes.said] == [2, 3, 4, 6]
    assert len({tuple(base) for _, base, _ in probes.said}) == 1
    # The last answers, worked out again by transformers without a cache.
    _, base, tuned = probes.said[-1]
    for with_adapter, said in ((False, base), (True, tuned)):
        with answering(session.model, with_adapter=with_adapter), torch.no_grad():
            ids = list(probes.prompt)
            for token in said:
                assert int(session.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
                ids.append(token)


@pytest.mark.parametrize("name", ["gemma3", "qwen35", "qwen3moe", "phi3", "gpt-oss"])
def test_answers_with_a_cache_are_those_without(name: str, tmp_path: Path) -> None:
    path = write_architecture_model(tmp_path / "model.gguf", name, VOCABULARY, "Q8_0")
    packed, model = make_lora(read_header(path))
    prompt = make_rows(1)[0].ids
    with answering(model, with_adapter=True), torch.no_grad():
        said = greedy_answer(
            model, packed.head, prompt, dtype=torch.float32, end_ids=(), max_new_tokens=4,
            seconds=60,
        ).ids  # fmt: skip
        for length in range(len(said)):
            states = hidden_states(model, torch.tensor([prompt + said[:length]]))[:, -1]
            assert int(log_probabilities(states, packed.head).argmax()) == said[length]


def test_an_answer_ends_at_its_end_and_when_its_time_is_over(tmp_path: Path) -> None:
    packed, model = make_lora(make_model(tmp_path))

    def answer(seconds: float, *end_ids: int) -> Generated:
        return greedy_answer(
            model, packed.head, [1, 2, 3], dtype=torch.float32, end_ids=end_ids, max_new_tokens=3,
            seconds=seconds,
        )  # fmt: skip

    with answering(model, with_adapter=True):
        free = answer(60)
        assert (len(free.ids), free.cut) == (3, True)
        assert answer(60, free.ids[0]) == Generated([], cut=False)
        assert answer(0) == Generated([], cut=True)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_good(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 60, "save_steps": 1})
    session = Session(make_model(tmp_path), tmp_path / "a", settings)
    layer = session.packed.model.get_submodule("model.layers.0.mlp.up_proj")
    calls = 0

    def poison(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * math.inf if calls > 3 else output

    layer.register_forward_hook(poison)
    with pytest.raises(LlamaForgeError) as caught:
        session.run()
    assert caught.value.code == "diverged"
    assert "learning_rate" in caught.value.hint
    steps = [event for event in session.events if isinstance(event, events.Step)]
    assert steps[-1].loss is None
    saved = [event.step for event in session.events if isinstance(event, events.Checkpoint)]
    assert saved == [1, 2, 3]
    json.loads(steps[-1].to_json())  # no NaN reaches the event file


def test_validation_loss_is_the_mean_over_tokens(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    validation = make_rows(5, seed=4, longest=60)
    settings = SETTINGS.model_copy(
        update={"eval_steps": 3, "per_device_eval_batch_size": 2, "learning_rate": 1e-12}
    )
    session = Session(header, tmp_path / "a", settings)
    session.run(validation=validation)
    found = [event for event in session.events if isinstance(event, events.Eval)]
    assert [(event.step, event.rows) for event in found] == [(3, 5), (6, 5)]
    packed, model = make_lora(header)
    total, count = 0.0, 0
    for row in validation:
        ids = torch.tensor([row.ids])
        logits = model(ids).logits[0, :-1].float()
        labels = torch.where(torch.tensor(row.trained), ids[0], IGNORED_LABEL)[1:]
        total += float(functional.cross_entropy(logits, labels, reduction="sum").detach())
        count += int((labels != IGNORED_LABEL).sum())
    assert packed.head.weight.rows == logits.shape[-1]
    assert found[0].loss == pytest.approx(total / count, abs=1e-4)


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    batches = LengthBatches([row % 50 for row in range(1000)], batch_size=7, seed=3, accumulation=3)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        order = list(batches)
        assert len(order) == len(batches)
        assert sorted(row for batch in order for row in batch) == list(range(1000))
        orders.append(order)
    assert orders[0] != orders[1]
    batches.set_epoch(0)
    assert list(batches) == orders[0]


@pytest.mark.parametrize("rows", [96, 97, 103, 5])
def test_a_step_has_the_same_rows_however_it_is_cut_and_divided(rows: int) -> None:
    lengths = [row * 7 % 50 for row in range(rows)]

    def steps(batch: int, accumulation: int, world: int) -> list[list[int]]:
        shares = [
            LengthBatches(lengths, batch, seed=3, accumulation=accumulation, rank=rank, world=world)
            for rank in range(world)
        ]
        orders = [list(share) for share in shares]
        assert [len(order) for order in orders] == [len(share) for share in shares]
        assert len({len(order) for order in orders}) == 1, "no process waits for another for good"
        found = []
        for start in range(0, len(orders[0]), accumulation):
            part = [batch for order in orders for batch in order[start : start + accumulation]]
            found.append(sorted(row for batch in part for row in batch if row >= 0))
        return found

    expected = steps(8, 1, 1)
    assert sorted(row for step in expected for row in step) == list(range(rows))
    for cut in [(4, 2, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4), (1, 1, 8)]:
        assert steps(*cut) == expected


def test_padding_is_never_trained_and_rows_are_padded_on_the_right() -> None:
    rows = make_rows(6)
    for batch in RowLoader(rows, batch_size=3, seed=0):
        assert batch["input_ids"].shape[1] % 8 == 0
        for ids, labels, length in zip(
            batch["input_ids"], batch["labels"], batch["lengths"], strict=True
        ):
            row = next(row for row in rows if row.ids == ids[:length].tolist())
            assert (labels[length:] == IGNORED_LABEL).all()
            assert [label != IGNORED_LABEL for label in labels[:length].tolist()] == row.trained


@pytest.mark.parametrize("name", ["llama", "gemma4-e", "qwen35", "qwen3moe"])
def test_recomputed_activations_change_nothing(name: str, tmp_path: Path) -> None:
    path = write_architecture_model(tmp_path / "model.gguf", name, VOCABULARY, "Q8_0")
    header = read_header(path)
    plain = Session(header, tmp_path / "a")
    plain.run()
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    recomputed = Session(header, tmp_path / "b", settings)
    recomputed.run()
    assert recomputed.losses == pytest.approx(plain.losses, abs=1e-6)


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    exact = Session(header, tmp_path / "a")
    exact.run()
    rounded = Session(
        header, tmp_path / "b", SETTINGS.model_copy(update={"compute_dtype": "bfloat16"})
    )
    rounded.run()
    assert rounded.losses == pytest.approx(exact.losses, abs=0.05)
    assert rounded.losses != exact.losses
