"""A recipe that is no recipe is refused in a sentence, whatever it holds."""

import time
from pathlib import Path

import pytest

from llamaforge.errors import UsageError
from llamaforge.recipe.spec import Recipe, load_yaml, parse


@pytest.mark.parametrize("text", ["[" * 5000, "when: 2024-13-45", "a: [", "\x00", "!!python/x []"])
def test_what_is_no_yaml_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml is not YAML"):
        load_yaml(path)


def test_what_is_no_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(UsageError, match="is not YAML"):
        load_yaml(path)


def test_a_list_that_names_itself_again_and_again_is_not_written_out(tmp_path: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    names = [f"*l{number}" for number in range(10)]
    lines += [f"l{n}: &l{n} [{', '.join([names[n - 1]] * 10)}]" for n in range(1, 10)]
    lines.append("data: {sources: [*l9]}")
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    body = {"model": {"name": "m"}, "data": load_yaml(path)["data"]}
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"data\.sources\.0"):
        parse(Recipe, body, "The recipe")
    assert time.monotonic() - started < 5


def test_a_value_that_is_wrong_is_masked() -> None:
    key = "ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz1"
    with pytest.raises(UsageError) as caught:
        parse(Recipe, {"model": {"name": "m"}, "data": {"sources": ["a"], "images": key}}, "It")
    assert key[:12] not in caught.value.message
