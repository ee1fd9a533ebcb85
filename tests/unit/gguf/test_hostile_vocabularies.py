"""A vocabulary that makes no sense is refused in a sentence, never with a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.header import ArrayRef, Header
from llamaforge.gguf.tokenizer import GgufTokenizer
from tools.random_models import Vocabulary

STRING, INT32, FLOAT32 = 8, 5, 6
BYTE_LEVEL = Vocabulary.byte_level().values
PIECES: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


class Given(Header):
    """A header whose arrays are given, not read."""

    def __init__(self, values: dict[str, Any]) -> None:
        metadata = {
            key: ArrayRef(STRING, len(value), 0, 0) if isinstance(value, list) else value
            for key, value in values.items()
        }
        super().__init__(Path("given.gguf"), 3, metadata, {}, 0)
        self._values = values

    def strings(self, key: str) -> list[str]:
        return [str(item) for item in self._values.get(key, [])]

    def numbers(self, key: str) -> list[Any]:
        return list(self._values.get(key, []))


def built(values: dict[str, Any], **changes: Any) -> GgufTokenizer:
    return GgufTokenizer(
        Given(values | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    )


def test_both_vocabularies_are_sound_as_they_stand() -> None:
    assert built(BYTE_LEVEL).decode(built(BYTE_LEVEL).encode("the end")) == "the end"
    pieces = built(PIECES)
    assert pieces.encode("ab") == [6, 5]
    assert pieces.with_bos([6]) == [1, 6]


@pytest.mark.parametrize("values", [BYTE_LEVEL, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        ("tokens", lambda _: []),
        ("tokens", lambda old: old[:-1]),
        ("tokens", lambda old: [*old[:-1], "\udcff"]),
        ("token_type", lambda old: old[1:]),
        ("model", lambda _: "bert"),
        ("model", lambda _: 7),
        ("model", lambda _: "\x1b[2J"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(
    values: dict[str, Any], key: str, spoil: Callable[[Any], Any]
) -> None:
    with pytest.raises(RefusedError) as caught:
        built(values, **{key: spoil(values[f"tokenizer.ggml.{key}"])})
    assert "given.gguf" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "scores", [[], [0.0] * 7, [float("nan"), *[0.0] * 7]], ids=["none", "few", "no number"]
)
def test_pieces_need_a_score_each(scores: list[float]) -> None:
    with pytest.raises(InvalidFileError, match="score"):
        built(PIECES, scores=scores)


def test_a_piece_of_absurd_length_is_refused_before_it_is_cut_everywhere() -> None:
    tokens = [*PIECES["tokenizer.ggml.tokens"][:-1], "x" * 1_000_000]
    with pytest.raises(InvalidFileError, match="too long"):
        built(PIECES, tokens=tokens)


@pytest.mark.parametrize("name", ["of the future", "", 7, "\x1b]0;"])
def test_an_unknown_pre_tokenizer_is_named(name: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        built(BYTE_LEVEL, pre=name)
    assert caught.value.code == "unsupported_tokenizer"
    assert "\x1b" not in caught.value.message


def test_merges_that_lead_nowhere_are_left_out() -> None:
    merges = [*BYTE_LEVEL["tokenizer.ggml.merges"], "", " ", "x", "x ", " x", "not there", "a b c"]
    tokens = [*BYTE_LEVEL["tokenizer.ggml.tokens"][:-3], "", "<e>", "<f>"]
    values = BYTE_LEVEL | {"tokenizer.ggml.tokens": tokens}
    assert built(values, merges=merges).encode("the x a") == built(values).encode("the x a")


@pytest.mark.parametrize("value", ["1", -1, 10**6, True, 1.0, None])
def test_a_token_id_that_is_none_counts_as_absent(value: Any) -> None:
    tokenizer = built(PIECES, bos_token_id=value)
    assert tokenizer.bos_id is None
    assert tokenizer.add_bos is False
    assert tokenizer.with_bos([5]) == [5]
    assert tokenizer.text_of(tokenizer.bos_id) == ""


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), ("no", True)])
def test_whether_bos_is_wanted_is_a_truth_value_or_the_usual(value: Any, expected: bool) -> None:
    assert built(PIECES, add_bos_token=value).add_bos is expected


@pytest.mark.parametrize("value", [7, True, 1.5, [1]])
def test_a_chat_template_that_is_no_text_counts_as_absent(value: Any) -> None:
    assert built(PIECES | {"tokenizer.chat_template": value}).chat_template is None


TOKEN = st.one_of(
    st.text(max_size=3),
    st.text(alphabet="abĠ▁<>\udc80\u0000", max_size=4),
    st.sampled_from(["", "</s>"]),
)
SCALAR = st.one_of(st.integers(-2, 9), st.booleans(), st.floats(), st.text(max_size=2))


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    model=st.sampled_from(["llama", "gpt2"]),
    tokens=st.lists(TOKEN, max_size=8),
    merges=st.lists(st.text(alphabet="ab Ġ<", max_size=5), max_size=5),
    types=st.lists(st.integers(-1, 7), min_size=8, max_size=8),
    scores=st.lists(st.floats(), min_size=8, max_size=8),
    keys=st.dictionaries(
        st.sampled_from(["bos_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix"]),
        SCALAR,
    ),
)
def test_any_small_vocabulary_is_built_or_refused(
    model: str, tokens: list[str], merges: list[str], types: list[int], scores: list[float],
    keys: dict[str, Any],
) -> None:  # fmt: skip
    try:
        tokenizer = built(
            {}, model=model, pre="gpt-2", tokens=tokens, merges=merges,
            token_type=types[: len(tokens)], scores=scores[: len(tokens)], **keys,
        )  # fmt: skip
    except RefusedError:
        return
    ids = tokenizer.with_bos(tokenizer.encode("ab a<b </s>"))
    assert all(0 <= number < len(tokens) for number in ids)
    tokenizer.decode(ids)
