"""Names and folders as the `huggingface_hub` library has them."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamaforge.catalog.hub_layout import is_repo_name, repo_place


def library_takes(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@given(st.text(alphabet="aZ0-_./é \n", max_size=12))
@example("a" * 96 + "/" + "b" * 96)
@example("a" * 97)
@example("a/" + "b" * 97)
@example("a.git")
@example("a_/_b")
@settings(max_examples=2000, deadline=None)
def test_a_name_is_taken_where_the_library_takes_it(name: str) -> None:
    assert is_repo_name(name) == library_takes(name)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-3B-Instruct", "a_b/c.d"])
def test_a_repository_lies_where_the_library_puts_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    assert repo_place(name) == tmp_path / repo_folder_name(repo_id=name, repo_type="model")
