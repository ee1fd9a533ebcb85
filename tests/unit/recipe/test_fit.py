"""A step is cut up until it fits, and always has as many rows as were asked for."""

from dataclasses import replace

import pytest

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.cut import Cut, divisors, smaller
from llamaforge.recipe.estimate import Estimator, RowSizes, Trial
from llamaforge.recipe.fit import (
    MEASURED_PART,
    Fit,
    fitted,
    largest_batch,
    largest_length,
    usable_bytes,
)
from llamaforge.recipe.training_settings import TrainingSettings
from tools.random_models import Shape, Vocabulary, write_random_model

SETTINGS = TrainingSettings(
    per_device_train_batch_size=8, gradient_accumulation_steps=2, compute_dtype="bfloat16"
)
ROWS = RowSizes(train=((200_000, 100),) * 100, train_rows=100)
TRIAL = Trial(
    recomputed=False,
    fixed_bytes=900_000_000,
    bytes_a_token=50_000.0,
    seconds_a_pass=0.5,
    seconds_a_token=0.001,
    seconds_a_shape=0.0,
    seconds_a_trained_token=0.0,
    seconds_a_step=0.1,
    forward_part=0.5,
    tokens=512,
    seconds=1.0,
)


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    path = tmp_path_factory.mktemp("fit") / "m.gguf"
    return read_header(write_random_model(path, Shape(layers=4), Vocabulary.byte_level(), "Q4_0"))


def estimator(
    header: Header, settings: TrainingSettings = SETTINGS, trial: Trial | None = None
) -> Estimator:
    return Estimator(header, settings, 1000, trial)


def fit(
    header: Header,
    available: float,
    settings: TrainingSettings = SETTINGS,
    trial: Trial | None = None,
) -> Fit:
    return fitted(estimator(header, settings, trial), ROWS, int(available))


def test_what_fits_is_left_as_it_was_asked_for(header: Header) -> None:
    assert fit(header, 1e12).cut.applied(SETTINGS) == SETTINGS
    assert fit(header, 1e12, trial=TRIAL).cut.applied(SETTINGS) == SETTINGS


def test_without_times_recomputing_comes_first_then_smaller_batches(header: Header) -> None:
    fits = [fit(header, giga * 1e9) for giga in range(200, 6, -1)]
    cuts = list(dict.fromkeys(found.cut for found in fits))
    seen = [(cut.per_device_train_batch_size, cut.gradient_checkpointing) for cut in cuts]
    assert seen[0] == (8, False)
    assert (8, True) in seen
    assert seen == sorted(seen, key=lambda item: -item[0] + 0.5 * item[1])
    for cut in cuts:
        assert cut.per_device_train_batch_size * cut.gradient_accumulation_steps == 16
    needs = [found.memory.total for found in fits]
    assert needs == sorted(needs, reverse=True)


def test_with_times_the_fastest_that_fits_is_taken(header: Header) -> None:
    whole = estimator(header, trial=TRIAL).memory(Cut.of(SETTINGS), ROWS.longest).total
    found = fit(header, whole / 0.9 - 1e9, trial=TRIAL)
    assert found.cut == Cut(4, 4, gradient_checkpointing=False)
    # Where a pass is dear and a token cheap, computing again costs less than a further pass.
    dear = replace(TRIAL, seconds_a_pass=100.0, seconds_a_token=1e-6)
    found = fit(header, whole / 0.9 - 1e9, trial=dear)
    assert found.cut == Cut(8, 2, gradient_checkpointing=True)


def test_a_cut_keeps_validation_as_small_as_training() -> None:
    applied = Cut(2, 8, gradient_checkpointing=False).applied(SETTINGS)
    assert applied.per_device_eval_batch_size == 2


def test_a_wish_to_recompute_is_kept(header: Header) -> None:
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    assert fit(header, 1e12, settings).cut.gradient_checkpointing


def test_one_row_that_does_not_fit_is_refused_with_a_length_that_does(header: Header) -> None:
    available = 1_500_000_000
    with pytest.raises(RefusedError) as caught:
        fit(header, available)
    assert caught.value.code == "no_memory"
    assert "200,000 tokens" in caught.value.message
    length = int(caught.value.hint.rpartition("max_length=")[2])
    short = RowSizes(train=((length, 1),), train_rows=1)
    found = fitted(estimator(header), short, available)
    assert found.memory.total <= usable_bytes(estimator(header), available)


def test_the_largest_length_and_the_largest_batch_just_fit(header: Header) -> None:
    measured = estimator(header, trial=TRIAL)
    length = largest_length(measured, 4_000_000_000, 0)
    smallest = Cut(1, 16, gradient_checkpointing=True)
    room = usable_bytes(measured, 4_000_000_000)
    assert measured.memory(smallest, length).total <= room
    assert measured.memory(smallest, length + 128).total > room
    assert largest_length(measured, 4_000_000_000, 2048) == 2048

    short = RowSizes(train=((2_000, 10),), train_rows=1)
    found = largest_batch(measured, short, 4_000_000_000)
    assert found == Cut(16, 1, gradient_checkpointing=False)
    assert largest_batch(measured, ROWS, 1_000_000_000) is None


def test_computing_again_may_let_more_rows_pass_at_a_time(header: Header) -> None:
    measured = estimator(header, trial=TRIAL)
    rows = RowSizes(train=((2_000, 10),), train_rows=1)
    four = measured.memory(Cut(4, 4, gradient_checkpointing=False), rows.longest).total
    found = largest_batch(measured, rows, int(four / MEASURED_PART) + 1)
    assert found is not None
    assert found.gradient_checkpointing
    assert found.per_device_train_batch_size > 4


def test_a_large_step_is_cut_without_trying_every_size() -> None:
    assert divisors(12) == [12, 6, 4, 3, 2, 1]
    assert len(divisors(65_536 * 1_000_000)) == 23 * 7, "2 to the 22nd times 5 to the 6th"


def test_where_memory_runs_out_batches_are_halved_until_nothing_is_left() -> None:
    cut: Cut | None = Cut(12, 2, gradient_checkpointing=False)
    seen = []
    while cut is not None:
        seen.append((cut.per_device_train_batch_size, cut.gradient_checkpointing))
        assert cut.per_device_train_batch_size * cut.gradient_accumulation_steps == 24
        cut = smaller(cut)
    assert seen == [(12, False), (6, False), (3, False), (1, False), (1, True)]
