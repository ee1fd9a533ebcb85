"""Files that Ollama's converter wrote: trained, verified and merged as the server reads them.

llama.cpp takes an equivalent of each, which no code under test has touched; it is the judge.
"""

from pathlib import Path

import numpy as np
import pytest

from llamaforge.evaluation.check_file import check_file
from llamaforge.evaluation.fidelity import measure_fidelity
from llamaforge.evaluation.llama import Server
from llamaforge.export.adapter import write_adapter
from llamaforge.export.merged import Provenance, write_merged
from llamaforge.gguf.header import read_header
from llamaforge.gguf.llama_files import is_translated, llama_files, remove_leftovers
from llamaforge.gguf.model_file import read_model
from llamaforge.gguf.served import hidden_parts
from tests.contract.engine.engine_bench import VOCABULARY, fidelity_rows, make_trained
from tools.ollama_models import FORMS, write_ollama_model

ABOUT = Provenance("mine", "run", "base", "sha256:0", "program")


def answers(files: tuple[Path, ...]) -> np.ndarray:
    with Server(files, context=64) as server:
        ids = fidelity_rows(1)[0].ids
        return server.log_probabilities(ids, range(len(ids)))


@pytest.mark.parametrize("name", FORMS)
def test_it_is_served_as_it_was_trained(name: str, tmp_path: Path) -> None:
    path, equivalent = write_ollama_model(tmp_path, name, VOCABULARY)
    header = read_model(path)
    assert is_translated(header)
    trained = make_trained(header)
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, header, trained.layers(), name="mine", base_digest="sha256:0")
    with Server(equivalent, context=64, adapter=adapter) as server:
        result = measure_fidelity(trained, server, fidelity_rows(), lambda done: None)
    assert result.passed, result.reason
    assert abs(result.kl_base_mean) < 2e-6
    assert abs(result.kl_mean) < 2e-6
    assert result.kl_effect_mean > 50 * abs(result.kl_mean)
    with llama_files(header, tmp_path) as files:
        assert files != header.files
        np.testing.assert_array_equal(answers(files), answers((equivalent,)))
    assert not files[0].exists()


@pytest.mark.parametrize("quantization", [None, "Q8_0"])
@pytest.mark.parametrize("name", FORMS)
def test_what_is_merged_keeps_the_form_and_what_no_text_passes_through(
    name: str, quantization: str | None, tmp_path: Path
) -> None:
    path, _ = write_ollama_model(tmp_path, name, VOCABULARY)
    header = read_model(path)
    trained = make_trained(header)
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, header, trained.layers(), name="mine", base_digest="sha256:0")
    merged = tmp_path / "merged.gguf"
    write_merged(merged, header, read_header(adapter), ABOUT, quantization=quantization)
    before, after = read_header(path), read_header(merged)
    assert list(after.tensors) == list(before.tensors)
    assert after.architecture == before.architecture
    for encoder in FORMS[name].encoders:
        old, new = before.tensors[encoder], after.tensors[encoder]
        assert after.read_tensor(new) == before.read_tensor(old)
    found = check_file(merged, like=(path,), adapter=adapter)
    assert found["kl_mean"] < (1e-2 if quantization else 1e-6)
    assert found["kl_base_mean"] > 5 * found["kl_mean"]


def test_it_is_told_what_stays_as_it_is(tmp_path: Path) -> None:
    seen = {}
    for name in ("gemma3", "gemma4", "gptoss"):
        path, _ = write_ollama_model(tmp_path, name, VOCABULARY)
        seen[name] = hidden_parts(read_model(path))
    assert seen == {"gemma3": ("images",), "gemma4": ("images", "sound"), "gptoss": ()}


def test_two_translated_files_do_not_meet_and_what_was_left_is_removed(tmp_path: Path) -> None:
    path, _ = write_ollama_model(tmp_path, "qwen25vl", VOCABULARY)
    header = read_model(path)
    folder = tmp_path / "run"
    with llama_files(header, folder) as one, llama_files(header, folder) as two:
        assert one != two
        assert one[0].read_bytes() == two[0].read_bytes()
    assert list(folder.iterdir()) == []
    (folder / ".model.x.served.gguf").write_bytes(b"half")
    remove_leftovers(folder)
    assert list(folder.iterdir()) == []
