"""Every architecture of the table: torch and llama.cpp agree on base and tuned model.

What passes here is what `docs/models.md` says of each architecture; `tools/support_matrix.py`
prints it.
"""

from pathlib import Path

import pytest

from llamaforge.gguf.architectures import ARCHITECTURES, architecture_of
from llamaforge.gguf.header import read_header
from tests.contract.engine.engine_bench import VOCABULARY, make_trained
from tests.contract.engine.test_served_equals_trained import measure
from tools.architecture_models import RECIPES, write_architecture_model
from tools.support_matrix import DOCUMENT, WORDS, documented


def test_there_is_a_model_of_every_entry(tmp_path: Path) -> None:
    entries = {id(entry) for found in ARCHITECTURES.values() for entry in found}
    path = tmp_path / "model.gguf"
    made = {
        id(architecture_of(read_header(write_architecture_model(path, name, VOCABULARY))))
        for name in RECIPES
    }
    assert made == entries


def test_the_document_shows_the_tables_as_they_are() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert documented(text) == text, "run: python -m tools.support_matrix --write"
    assert WORDS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_without_quantization_only_float_arithmetic_differs(name: str, tmp_path: Path) -> None:
    header = read_header(
        write_architecture_model(tmp_path / "model.gguf", name, VOCABULARY, "F32", seed=1)
    )
    trained = make_trained(header)
    result = measure(header, trained, trained.layers(), tmp_path)
    assert result.passed, result.reason
    assert abs(result.kl_base_mean) < 2e-6
    assert abs(result.kl_mean) < 2e-6
    assert result.kl_effect_mean > 50 * abs(result.kl_mean)


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("name", RECIPES)
def test_quantized_blocks_are_served_as_they_were_trained(
    name: str, quantization: str, tmp_path: Path
) -> None:
    header = read_header(
        write_architecture_model(tmp_path / "model.gguf", name, VOCABULARY, quantization, seed=1)
    )
    trained = make_trained(header)
    result = measure(header, trained, trained.layers(), tmp_path)
    assert result.passed, result.reason
    # The recurrence of linear attention carries on what llama.cpp rounds off activations.
    bound = 2e-3 if name.startswith("qwen35") else 1e-3
    assert result.kl_base_mean < bound
    assert result.kl_mean < bound
