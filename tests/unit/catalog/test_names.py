"""Names and digests: Ollama's rules, and nothing that leads out of a store."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.catalog.names import ModelName, parse_digest, parse_name
from llamaforge.errors import InvalidFileError, UsageError

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("qwen2.5", "registry.ollama.ai/library/qwen2.5:latest", "qwen2.5:latest"),
        ("qwen2.5:3b", "registry.ollama.ai/library/qwen2.5:3b", "qwen2.5:3b"),
        ("me/model", "registry.ollama.ai/me/model:latest", "me/model:latest"),
        ("registry.ollama.ai/library/a:b", "registry.ollama.ai/library/a:b", "a:b"),
        ("hf.co/library/a:Q4_K_M", "hf.co/library/a:Q4_K_M", "hf.co/library/a:Q4_K_M"),
        ("localhost:5000/me/a", "localhost:5000/me/a:latest", "localhost:5000/me/a:latest"),
        ("https://hf.co/org/repo-GGUF", "hf.co/org/repo-GGUF:latest", "hf.co/org/repo-GGUF:latest"),
        (" _x:1 ", "registry.ollama.ai/library/_x:1", "_x:1"),
    ],
)
def test_left_out_parts_get_ollamas_defaults(text: str, full: str, short: str) -> None:
    name = parse_name(text)
    assert (name.full, name.short) == (full, short)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "model:",
        ":tag",
        "/model",
        "../model",
        "../../etc/passwd",
        "host/../model:tag",
        "a/b/c/d:e",
        "name.space/model",
        "model:..",
        "-model",
        "model:-tag",
        "mo\0del",
        "mo del",
        "model\n:tag",
        "modèle",
        "ｑwen",
        "model@sha256:" + DIGEST,
        "a" * 81,
        "model:" + "t" * 81,
        "h" * 351 + "/a/b",
        "a\\b",
    ],
)
def test_other_names_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_name(text)
    assert caught.value.code == "model_name"
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert "\0" not in caught.value.message


def test_names_that_differ_only_in_case_are_equal() -> None:
    assert parse_name("Qwen2.5:3B") == parse_name("qwen2.5:3b")
    assert len({parse_name("Me/X"), parse_name("me/x")}) == 1
    assert parse_name("a") != parse_name("b")
    assert parse_name("a") != "a"


_FIRST = string.ascii_letters + string.digits + "_"
_PART = st.builds(
    str.__add__, st.sampled_from(_FIRST), st.text(_FIRST + "-", min_size=0, max_size=79)
)


@given(_PART, _PART, _PART, _PART)
def test_short_and_full_names_mean_the_same_model(
    host: str, space: str, model: str, tag: str
) -> None:
    name = ModelName(host, space, model, tag)
    assert parse_name(name.full) == name
    assert parse_name(name.short) == name


@given(st.text())
def test_a_name_is_sound_or_a_usage_error(text: str) -> None:
    try:
        name = parse_name(text)
    except UsageError:
        return
    assert all(part not in {"", ".", ".."} for part in name.full.replace(":", "/").split("/"))
    assert "\\" not in name.full
    assert name.full.isascii()


@pytest.mark.parametrize(
    "text", [f"sha256:{DIGEST}", f"sha256-{DIGEST}", f"sha256:{DIGEST.upper()}"]
)
def test_a_digest_is_given_in_lower_case(text: str) -> None:
    assert parse_digest(text) == DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        DIGEST,
        f"sha256:{DIGEST}\n",
        f"sha256:{DIGEST}0",
        f"sha256:{DIGEST[1:]}",
        f"sha256_{DIGEST}",
        f"SHA256:{DIGEST}",
        f"sha512:{DIGEST}",
        f"sha256:../{DIGEST[3:]}",
        f"sha256:{'٣' * 64}",
        f"/sha256:{DIGEST}",
    ],
)
def test_everything_else_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        parse_digest(text)
    assert caught.value.code == "bad_digest"
