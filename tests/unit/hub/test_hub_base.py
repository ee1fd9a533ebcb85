"""Whether a base can be trained is said from its small files, before anything is begun."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamaforge.catalog.hub_base import NOT_THERE, check_fits, local_base
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.gguf.header import Header, read_header
from tests.unit.hub.cache_builder import FIRST, REPO, RepoBuilder, weights
from tools.random_models import Shape, Vocabulary, write_random_model

CONFIG = {"model_type": "llama", "eos_token_id": 2, "max_position_embeddings": 4096}


def files(**changes: Any) -> dict[str, bytes]:
    """Return a sound base; changes are contents of files, by name without its ending."""
    parts: dict[str, Any] = {
        "config": CONFIG,
        "tokenizer_config": {"eos_token": "</s>", "chat_template": "{{ messages }}"},
        "tokenizer": {},
    } | changes
    found = {f"{name}.json": json.dumps(value).encode() for name, value in parts.items()}
    return found | {"model.safetensors": weights(100)}


def refused(repo: str = REPO) -> LlamaForgeError:
    with pytest.raises(LlamaForgeError) as caught:
        local_base(repo)
    return caught.value


def test_a_base_in_the_cache_is_found_with_its_commit_and_template(repo: RepoBuilder) -> None:
    folder = repo.commit(FIRST, files(), ref="main")
    found = local_base(REPO)
    assert (found.folder, found.revision, found.model_type) == (folder, FIRST, "llama")
    assert (found.positions, found.chat_template) == (4096, "{{ messages }}")


def test_a_folder_by_its_path_is_a_base_too(tmp_path: Path) -> None:
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    found = local_base(str(tmp_path))
    assert (found.folder, found.revision) == (tmp_path, None)


def test_the_template_in_a_file_of_its_own_comes_first(repo: RepoBuilder) -> None:
    repo.commit(FIRST, files() | {"chat_template.jinja": b"{{ own }}"}, ref="main")
    assert local_base(REPO).chat_template == "{{ own }}"


def test_of_several_templates_the_default_is_taken(repo: RepoBuilder) -> None:
    several = [
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "default", "template": "{{ chat }}"},
    ]
    config = {"eos_token": "</s>", "chat_template": several}
    repo.commit(FIRST, files(tokenizer_config=config), ref="main")
    assert local_base(REPO).chat_template == "{{ chat }}"


def test_a_base_without_a_template_has_none(repo: RepoBuilder) -> None:
    repo.commit(FIRST, files(tokenizer_config={"eos_token": "</s>"}), ref="main")
    assert local_base(REPO).chat_template is None


def test_sizes_of_a_language_model_inside_another_are_its_own(repo: RepoBuilder) -> None:
    both = {"model_type": "gemma3", "eos_token_id": [1], "text_config": {
        "model_type": "gemma3_text", "max_position_embeddings": 512}}  # fmt: skip
    repo.commit(FIRST, files(config=both), ref="main")
    found = local_base(REPO)
    assert (found.model_type, found.positions) == ("gemma3_text", 512)


def test_what_was_never_fetched_is_named_with_the_way_to_it(hub_cache: Path) -> None:
    error = refused()
    assert error.code == NOT_THERE
    assert REPO in error.message
    assert "--download" in error.hint
    assert not hub_cache.exists()


def test_a_half_fetched_base_is_not_there(repo: RepoBuilder) -> None:
    content = files()
    del content["model.safetensors"]
    repo.commit(FIRST, content, ref="main")
    error = refused()
    assert error.code == NOT_THERE
    assert "in part" in error.message


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    error = refused(str(tmp_path))
    assert error.code == "no_base_folder"
    assert "safetensors" in error.message


def test_pickles_are_never_opened(repo: RepoBuilder) -> None:
    content = files()
    del content["model.safetensors"]
    repo.commit(FIRST, content | {"pytorch_model.bin": b"\x80\x04evil"}, ref="main")
    error = refused()
    assert error.code == "pickled_weights"
    assert "pytorch_model.bin" in error.message


@pytest.mark.parametrize("file", ["config", "tokenizer_config"])
def test_code_of_its_own_is_never_run(file: str, repo: RepoBuilder) -> None:
    own = {"AutoModelForCausalLM": "modeling_evil.Model"}
    body = (CONFIG if file == "config" else {"eos_token": "</s>"}) | {"auto_map": own}
    repo.commit(FIRST, files(**{file: body}), ref="main")
    assert refused().code == "remote_code"


def test_a_base_that_is_quantised_itself_is_none(repo: RepoBuilder) -> None:
    packed = CONFIG | {"quantization_config": {"quant_method": "mxfp4"}}
    repo.commit(FIRST, files(config=packed), ref="main")
    assert refused().code == "quantized_base"


def test_a_tokenizer_without_an_end_is_refused(repo: RepoBuilder) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "eos_token_id"}
    repo.commit(FIRST, files(config=config, tokenizer_config={}), ref="main")
    error = refused()
    assert error.code == "no_eos"
    assert "never stop" in error.message


def test_the_generation_settings_may_name_the_end(repo: RepoBuilder) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "eos_token_id"}
    ends = {"eos_token_id": [7, 8]}
    content = files(config=config, tokenizer_config={}, generation_config=ends)
    repo.commit(FIRST, content, ref="main")
    assert local_base(REPO).model_type == "llama"


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"model_type": 3}', b"{}"])
def test_a_configuration_that_is_not_sound_is_refused(text: bytes, repo: RepoBuilder) -> None:
    repo.commit(FIRST, files() | {"config.json": text}, ref="main")
    error = refused()
    assert isinstance(error, RefusedError)
    assert error.code in {"no_config", NOT_THERE}


def header_of(folder: Path) -> Header:
    return read_header(
        write_random_model(folder / "m.gguf", Shape(), Vocabulary.byte_level(), "Q8_0")
    )


SIZES = {
    "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512,
}  # fmt: skip


def test_a_base_of_the_same_sizes_fits(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(FIRST, files(config=CONFIG | SIZES), ref="main")
    check_fits(local_base(REPO), header_of(tmp_path))


@pytest.mark.parametrize("key", SIZES)
def test_a_base_of_other_sizes_is_refused_before_any_weight_is_read(
    key: str, repo: RepoBuilder, tmp_path: Path
) -> None:
    repo.commit(FIRST, files(config=CONFIG | SIZES | {key: SIZES[key] * 2}), ref="main")
    with pytest.raises(RefusedError) as caught:
        check_fits(local_base(REPO), header_of(tmp_path))
    assert caught.value.code == "other_base"
    assert f"{SIZES[key] * 2:,}" in caught.value.message
    assert not isinstance(caught.value, InvalidFileError)
