"""A step is cut up until it fits, and always has as many rows as were asked for."""

import pytest

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.spec import TrainingSettings
from llamaforge.training.fit import Fit, activation_bytes, fit_to_memory
from tools.random_models import Shape, Vocabulary, write_random_model

SETTINGS = TrainingSettings(
    per_device_train_batch_size=8, gradient_accumulation_steps=2, compute_dtype="bfloat16"
)


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    path = tmp_path_factory.mktemp("fit") / "m.gguf"
    return read_header(write_random_model(path, Shape(layers=4), Vocabulary.byte_level(), "Q4_0"))


def fit(header: Header, available: float, settings: TrainingSettings = SETTINGS) -> Fit:
    return fit_to_memory(
        settings, header, longest=200_000, trained_weights=1000, available_bytes=int(available)
    )


def test_what_fits_is_left_as_it_was_asked_for(header: Header) -> None:
    found = fit(header, 1e12)
    assert found.applied(SETTINGS) == SETTINGS


def test_recomputing_comes_first_then_smaller_batches(header: Header) -> None:
    cuts = [fit(header, giga * 1e9) for giga in range(200, 6, -1)]
    seen = list(
        dict.fromkeys((cut.per_device_train_batch_size, cut.gradient_checkpointing) for cut in cuts)
    )
    assert seen == [(8, False), (8, True), (4, True), (2, True), (1, True)]
    for cut in cuts:
        assert cut.per_device_train_batch_size * cut.gradient_accumulation_steps == 16
    needs = [cut.needed_bytes for cut in cuts]
    assert needs == sorted(needs, reverse=True)


def test_a_wish_to_recompute_is_kept(header: Header) -> None:
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    assert fit(header, 1e12, settings).gradient_checkpointing


def test_one_row_that_does_not_fit_is_refused_with_the_figures(header: Header) -> None:
    with pytest.raises(RefusedError) as caught:
        fit(header, 2e9)
    assert caught.value.code == "no_memory"
    assert "200,000 tokens" in caught.value.message
    assert "max_length=100000" in caught.value.hint


def test_activations_are_counted_by_the_formula(header: Header) -> None:
    layer = 14 * 256 + 6 * 512
    assert activation_bytes(header, 10, recomputed=False, itemsize=2) == 4 * layer * 10 * 2
    assert activation_bytes(header, 10, recomputed=True, itemsize=4) == (4 * 256 + layer) * 40
