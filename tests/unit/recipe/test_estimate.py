"""Estimates: parts that add up, formulas from the file's sizes, and a trial that outranks them."""

from dataclasses import replace

import pytest

from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.batching import packed_batches, padded, planned_steps, step_order
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import (
    GAPS_LEAST_BYTES,
    GAPS_PART,
    Estimator,
    RowSizes,
    Seconds,
    Trial,
)
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.training_settings import TrainingSettings
from tools.random_models import Shape, Vocabulary, write_random_model

SETTINGS = TrainingSettings(
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    num_train_epochs=2,
    eval_steps=5,
    compute_dtype="bfloat16",
)
CUT = Cut.of(SETTINGS)
TRIAL = Trial(
    recomputed=False,
    fixed_bytes=700_000_000,
    bytes_a_token=30_000.0,
    seconds_a_pass=0.25,
    seconds_a_token=0.001,
    seconds_a_shape=0.0,
    seconds_a_trained_token=0.002,
    seconds_a_step=0.125,
    forward_part=0.4,
    tokens=512,
    seconds=1.0,
)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Header]:
    folder = tmp_path_factory.mktemp("estimate")
    made = {}
    for architecture in ("llama", "qwen2"):
        shape = Shape(architecture=architecture, layers=4, tied=True)
        path = folder / f"{architecture}.gguf"
        made[architecture] = read_header(
            write_random_model(path, shape, Vocabulary.byte_level(), "Q4_0")
        )
    return made


def test_parts_add_up_and_come_from_the_file(headers: dict[str, Header]) -> None:
    header = headers["qwen2"]
    found = Estimator(header, SETTINGS, 1000).memory(CUT, 100)
    assert found.total == sum(found.to_json().values()) - found.to_json()["total"]
    assert found.weights == sum(tensor.n_bytes for tensor in header.tensors.values())
    assert (found.adapter, found.optimizer) == (8000, 8000)


def test_rows_that_are_put_into_order_are_held_twice(headers: dict[str, Header]) -> None:
    header = headers["llama"]
    plain = sum(tensor.n_bytes for tensor in header.tensors.values())
    copied = sum(
        tensor.n_bytes
        for name, tensor in header.tensors.items()
        if name.endswith(("attn_q.weight", "attn_k.weight"))
    )
    assert copied
    assert Estimator(header, SETTINGS, 1).memory(CUT, 8).weights == plain + copied


def test_activations_grow_with_the_padded_tokens_of_a_batch(headers: dict[str, Header]) -> None:
    estimator = Estimator(headers["qwen2"], SETTINGS, 1000)
    once = estimator.memory(CUT, 8).activations
    assert estimator.memory(CUT, 1).activations == once
    assert estimator.memory(CUT, 9).activations == pytest.approx(2 * once, rel=1e-3)
    again = Cut(4, 2, gradient_checkpointing=True)
    assert estimator.memory(again, 8).activations < once


def test_a_trial_replaces_the_formulas(headers: dict[str, Header]) -> None:
    estimator = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL)
    found = estimator.memory(CUT, 64)
    assert found.activations == 30_000 * 4 * 64
    small = estimator.memory(Cut(1, 8, gradient_checkpointing=False), 8)
    without_tokens = small.total - small.activations - small.optimizer
    chunk = 8 * Vocabulary.byte_level().size * (2 + 12)
    gaps = max(GAPS_LEAST_BYTES, int(GAPS_PART * 700_000_000))
    assert without_tokens == 700_000_000 + chunk + gaps


def test_what_was_not_tried_follows_the_formula_from_what_was(headers: dict[str, Header]) -> None:
    by_formula = Estimator(headers["qwen2"], SETTINGS, 1000)
    measured = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL)
    ratio = by_formula.bytes_a_token(recomputed=True) / by_formula.bytes_a_token(recomputed=False)
    assert measured.bytes_a_token(recomputed=True) == pytest.approx(30_000 * ratio)


def test_seconds_are_passes_tokens_losses_and_steps(headers: dict[str, Header]) -> None:
    estimator = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL)
    rows = RowSizes(train=((16, 4),) * 16, train_rows=16)
    found = estimator.seconds(CUT, rows)
    assert found is not None
    # One epoch: 4 passes over 4 × 16 tokens, 64 trained, in 2 steps.
    epoch = 4 * 0.25 + 256 * 0.001 + 64 * 0.002
    assert found.steps == 4
    assert found.step == pytest.approx(epoch / 2 + 0.125)
    assert found.training == pytest.approx(4 * found.step)
    assert found.validation == 0.0
    assert Estimator(headers["qwen2"], SETTINGS, 1000).seconds(CUT, rows) is None


def test_a_sample_stands_for_all_rows(headers: dict[str, Header]) -> None:
    estimator = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL)
    every = estimator.seconds(CUT, RowSizes(train=((16, 4),) * 160, train_rows=160))
    sample = estimator.seconds(CUT, RowSizes(train=((16, 4),) * 16, train_rows=160))
    assert every is not None
    assert sample is not None
    assert sample.total == pytest.approx(every.total)
    assert sample.steps == every.steps


def test_validation_is_forward_alone_and_as_often_as_asked(headers: dict[str, Header]) -> None:
    estimator = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL)
    rows = RowSizes(((16, 4),) * 80, 80, validation=((16, 4),) * 8, validation_rows=8)
    found = estimator.seconds(CUT, rows)
    assert found is not None
    once = 0.4 * (1 * 0.25 + 128 * 0.001) + 32 * 0.001
    assert found.steps == 20
    assert found.validation == pytest.approx(4 * once)


def test_what_a_reference_is_asked_counts(headers: dict[str, Header]) -> None:
    rows = RowSizes(train=((64, 10),) * 16, train_rows=16)
    trial = replace(TRIAL, seconds_a_step=0.0)

    def seconds(method: str, **changes: object) -> tuple[float, float]:
        settings = TrainingSettings.model_validate(
            SETTINGS.model_dump() | {"method": method, "num_train_epochs": 1} | changes
        )
        found = Estimator(headers["qwen2"], settings, 1000, trial).seconds(CUT, rows)
        assert found is not None
        return found.training, found.validation

    plain, _ = seconds("orpo")
    forward = 0.4 * (4 * 0.25 + 16 * 64 * 0.001) + 160 * 0.002 / 2
    assert seconds("dpo") == pytest.approx((plain + forward, 0.0))
    assert seconds("dpo", precompute_ref_log_probs=True) == pytest.approx((plain, forward))
    assert seconds("kto") == pytest.approx((plain + 3 * forward, 0.0))
    assert seconds("kto", num_train_epochs=2) == pytest.approx((2 * (plain + 2 * forward), forward))


def test_a_new_shape_costs_once(headers: dict[str, Header]) -> None:
    rows = RowSizes(train=((16, 0),) * 8 + ((32, 0),) * 8, train_rows=16)
    usual = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL).seconds(CUT, rows)
    slow = replace(TRIAL, seconds_a_shape=3.0)
    found = Estimator(headers["qwen2"], SETTINGS, 1000, slow).seconds(CUT, rows)
    assert usual is not None
    assert found is not None
    assert found.training - usual.training == pytest.approx(2 * 3.0)


def test_computing_again_costs_half_as_much_more(headers: dict[str, Header]) -> None:
    estimator = Estimator(headers["qwen2"], SETTINGS, 1000, TRIAL)
    rows = RowSizes(train=((16, 0),) * 16, train_rows=16)
    plain = estimator.seconds(CUT, rows)
    again = estimator.seconds(Cut(4, 2, gradient_checkpointing=True), rows)
    assert plain is not None
    assert again is not None
    assert again.step - 0.125 == pytest.approx(1.5 * (plain.step - 0.125))


def test_steps_are_those_of_the_epochs_unless_their_number_is_given() -> None:
    assert planned_steps(SETTINGS, 17) == 6  # 5 passes, 3 steps an epoch
    assert planned_steps(SETTINGS.model_copy(update={"max_steps": 7}), 17) == 7


def test_processes_share_the_rows_of_a_step(headers: dict[str, Header]) -> None:
    assert planned_steps(SETTINGS, 65, world=4) == 2 * 3, "steps of 32 rows"
    rows = RowSizes(((16, 4),) * 64, 64, validation=((16, 4),) * 8, validation_rows=8)

    def found(processes: int, machines: int) -> Seconds:
        launch = LaunchSettings(processes=processes, machines=machines, rendezvous="a:1")
        seconds = Estimator(headers["qwen2"], SETTINGS, 9, TRIAL, launch=launch).seconds(CUT, rows)
        assert seconds is not None
        return seconds

    alone, four = found(1, 1), found(2, 2)
    assert (alone.steps, four.steps) == (16, 4)
    assert four.step == pytest.approx(alone.step), "each has as many rows of a step as one alone"
    assert four.validation == pytest.approx(alone.validation / 4), (
        "after fewer steps, by one of all"
    )


def test_batches_are_every_row_once_in_an_order_that_the_epoch_changes() -> None:
    lengths = [number % 50 + 1 for number in range(300)]
    first, second = (step_order(lengths, 4, 0, epoch) for epoch in (0, 1))
    assert sorted(row for batch in first for row in batch) == list(range(300))
    assert first != second
    assert first == step_order(lengths, 4, 0, 0)


def test_padding_is_counted_as_it_is_made() -> None:
    assert packed_batches([(3, 1), (9, 1), (9, 1)], 2, 1, 0)[0] == 2
    assert packed_batches([(3, 1)] * 4, 2, 1, 0) == (2, 4 * 8, 1)


def test_rows_are_padded_to_few_lengths_and_never_much() -> None:
    assert [padded(n) for n in (1, 8, 9, 100, 129, 257, 1024, 1025, 5000)] == [
        8, 8, 16, 104, 144, 288, 1024, 1152, 5120
    ]  # fmt: skip
    for low in (128, 256, 512):
        assert len({padded(n) for n in range(low + 1, 2 * low + 1)}) == 8
    assert all(n <= padded(n) < n + max(8, n / 8) for n in range(1, 9000))
