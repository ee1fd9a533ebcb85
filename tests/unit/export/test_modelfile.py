"""A Modelfile says what was meant to whoever reads it, or is not written."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.errors import RefusedError, UsageError
from llamaforge.export.modelfile import modelfile_over, modelfile_text, two_commands
from llamaforge.recipe.spec import ResolvedModel

Command = tuple[str, str]


def unquoted(text: str) -> str | None:
    """Return what stands in the quotes, or None where they are not closed yet."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def parsed(text: str) -> list[Command]:
    """Read a Modelfile by the rules of Ollama's parser: name, value, quotes, dropped characters.

    A value ends at the first line break at which its quotes are closed.
    """
    commands: list[Command] = []
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
            continue
        if text[position] == "#":
            position = text.index("\n", position)
            continue
        name, position = word(text, position)
        if name.lower() == "parameter":
            name, position = word(text, position)
        if name.lower() == "message":
            role, position = word(text, position)
            name = f"message {role}"
        kept = ""
        while position < len(text):
            char = text[position]
            position += 1
            if char in "\r\n" and unquoted(kept.strip()) is not None:
                break
            if char.isprintable() or char in "\r\n\t":
                kept += char
        value = unquoted(kept.strip())
        assert value is not None, "quotes left open"
        commands.append((name, value))
    return commands


def word(text: str, position: int) -> tuple[str, int]:
    end = position
    while text[end] not in " \t":
        end += 1
    return text[position:end], end + 1


def test_only_what_is_needed_is_written(tmp_path: Path) -> None:
    text = modelfile_text("qwen2.5:3b", tmp_path / "adapter.gguf")
    assert parsed(text) == [("FROM", "qwen2.5:3b"), ("ADAPTER", str(tmp_path / "adapter.gguf"))]


def test_without_an_adapter_it_names_only_the_model() -> None:
    assert modelfile_text("hf.co/me/repo:Q4_K_M", None) == "FROM hf.co/me/repo:Q4_K_M\n"


def test_everything_that_is_given_is_read_back(tmp_path: Path) -> None:
    text = modelfile_text(
        "base",
        tmp_path / 'my "best" adapter.gguf',
        template='{{ if .System }}\n"{{ .System }}"\n{{ end }}',
        system="Say 'yes'.",
        parameters={"stop": ["<|im_end|>", '"'], "temperature": 0.5, "num_ctx": 4096, "x": True},
        messages=[{"role": "user", "content": "a\nFROM evil\n"}],
    )
    assert parsed(text) == [
        ("FROM", "base:latest"),
        ("ADAPTER", str(tmp_path / 'my "best" adapter.gguf')),
        ("TEMPLATE", '{{ if .System }}\n"{{ .System }}"\n{{ end }}'),
        ("SYSTEM", "Say 'yes'."),
        ("stop", "<|im_end|>"),
        ("stop", '"'),
        ("temperature", "0.5"),
        ("num_ctx", "4096"),
        ("x", "true"),
        ("message user", "a\nFROM evil\n"),
    ]


@given(st.text(st.sampled_from('"\n\r\t #aFROM:')) | st.text())
def test_any_text_is_read_back_exactly_or_refused(value: str) -> None:
    unprintable = any(not char.isprintable() and char not in "\n\r\t" for char in value)
    if '"""' in value or unprintable:
        with pytest.raises(RefusedError, match="Modelfile"):
            modelfile_text("base", None, system=value)
        return
    text = modelfile_text("base", None, system=value, template=value)
    assert parsed(text) == [("FROM", "base:latest"), ("TEMPLATE", value), ("SYSTEM", value)]


@pytest.mark.parametrize(
    "given",
    [
        {"system": 'x"""\nFROM evil\nSYSTEM """'},
        {"template": 'x"""'},
        {"system": "nul\0"},
        {"system": "\u200bhidden"},
        {"parameters": {"stop": "a\nFROM evil"}},
        {"parameters": {"stop": "a\rFROM evil"}},
        {"parameters": {"stop x\nFROM evil": "a"}},
        {"parameters": {"adapter": "/etc/passwd"}},
        {"parameters": {"": "a"}},
        {"parameters": {"stop": {"a": 1}}},
        {"parameters": {"stop": None}},
        {"messages": [{"role": "user\nFROM evil", "content": "a"}]},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user", "content": 'a"""b'}]},
        {"messages": [{"role": "user"}]},
        {"adapter": Path("/tmp/a\nFROM evil")},
        {"adapter": Path('/tmp/a"""b')},
    ],
)
def test_what_would_break_out_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as caught:
        modelfile_text("base", given.pop("adapter", None), **given)
    assert caught.value.code == "modelfile_breakout"
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", ["a\nFROM evil", "", "-f", "../x", "a b"])
def test_a_base_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        modelfile_text(name, None)


def test_the_commands_survive_a_shell() -> None:
    place = Path("/runs/it's; rm -rf $HOME/Modelfile")
    create, run = two_commands("me/mine", place)
    assert shlex.split(create) == ["ollama", "create", "me/mine:latest", "-f", str(place)]
    assert shlex.split(run) == ["ollama", "run", "me/mine:latest"]


@pytest.mark.parametrize("name", ["-rf", "a;b", "a b", "$(id)"])
def test_a_command_never_holds_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UsageError):
        two_commands(name, Path("/Modelfile"))


def test_the_built_in_model_is_named_by_its_file_with_all_that_it_needs(tmp_path: Path) -> None:
    stored = Store.open(paths.embedded_store()).find("llamaforge-demo")
    assert stored.blob is not None
    model = ResolvedModel(
        name="llamaforge-demo",
        store=paths.embedded_store(),
        blob=stored.blob,
        digest=f"sha256:{stored.blob_digest}",
        architecture="llama",
        quantization="Q4_K_M",
        context_length=1024,
    )
    text = modelfile_over(model, tmp_path / "adapter.gguf")
    assert f'FROM "{stored.blob}"' in text
    assert "TEMPLATE" in text
    assert "PARAMETER stop" in text
    elsewhere = model.model_copy(update={"store": tmp_path})
    assert "FROM llamaforge-demo" in modelfile_over(elsewhere, tmp_path / "adapter.gguf")
