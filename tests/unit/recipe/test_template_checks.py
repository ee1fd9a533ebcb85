"""A template that cannot be used is told from the file's header, before a run is made."""

from pathlib import Path
from typing import Any

import pytest

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.gguf.ends import check_ends, end_ids
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.template import check_template
from tools.random_models import CHATML, Vocabulary, write_vocabulary

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def header(folder: Path, *special: str, **values: Any) -> Header:
    """Return a file's header; a value of None leaves the key out."""
    known = dict(Vocabulary.byte_level().values)
    tokens = known["tokenizer.ggml.tokens"][: -len(SPECIAL)] + list(special or SPECIAL)
    known["tokenizer.ggml.tokens"] = tokens
    for key, value in values.items():
        name = "tokenizer.chat_template" if key == "template" else f"tokenizer.ggml.{key}_token_id"
        known[name] = value
    known = {key: value for key, value in known.items() if value is not None}
    return read_header(
        write_vocabulary(
            folder / f"{len(list(folder.iterdir()))}.gguf", Vocabulary(known, len(tokens))
        )
    )


@pytest.mark.parametrize(
    ("given", "template", "said"),
    [
        (None, "{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages", CHATML, "unexpected end of template"),
        (None, CHATML, ""),
        (None, None, ""),
        (None, " ", ""),
        ("llama3", CHATML, "<|start_header_id|>, which the model's vocabulary does not have"),
        ("chatlm", CHATML, "no chat template"),
    ],
)
def test_what_cannot_be_rendered_is_told(
    given: str | None, template: str | None, said: str, tmp_path: Path
) -> None:
    file = header(tmp_path, template=template)
    if not said:
        check_template(given, None, file)
        return
    with pytest.raises(LlamaForgeError) as caught:
        check_template(given, None, file)
    assert said in caught.value.message
    assert ".." not in caught.value.message
    assert (caught.value.code, bool(caught.value.hint)) == ("chat_template", True)


def test_the_template_of_a_full_precision_base_counts_in_place_of_the_files(tmp_path: Path) -> None:
    check_template(None, CHATML, header(tmp_path, template="{{ x"))
    with pytest.raises(LlamaForgeError, match="cannot be read"):
        check_template(None, "{{ x", header(tmp_path))


def test_a_vocabulary_that_ends_nothing_is_refused(tmp_path: Path) -> None:
    file = header(tmp_path, "<a>", "<b>", "<c>", eos=None)
    with pytest.raises(RefusedError, match="would never stop") as caught:
        check_ends(file)
    assert caught.value.code == "no_eos"
    for sound in (
        header(tmp_path, "<a>", "<b>", "<c>"),
        header(tmp_path, "<a>", "<b>", "<c>", eos=None, eot=3),
        header(tmp_path, "<a>", "<b>", "</s>", eos=None),
    ):
        check_ends(sound)
        assert end_ids(sound, GgufTokenizer(sound).tokens) == GgufTokenizer(sound).end_ids
