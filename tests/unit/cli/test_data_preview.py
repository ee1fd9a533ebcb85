"""Previews on a terminal: readable without colour, and nothing in them is obeyed."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from llamaforge.cli.data_preview import (
    answer_body,
    comparison_text,
    preview_body,
    preview_text,
    print_answer,
)
from llamaforge.data.preview import Preview, PreviewProblem, PreviewToken, preview, refused
from llamaforge.data.records import Message
from llamaforge.data.served_template import TemplateComparison
from llamaforge.data.templates import CHATML
from llamaforge.runs.previews import PreviewAnswer
from tests.unit.chat.test_preview import CHAT, letters

ESCAPE = re.compile("\x1b\\[[0-9;]*m")
SHORT = (Message("user", "Hi"), Message("assistant", "Hello"))


def row(*messages: Message, add_bos: bool = False) -> Preview:
    return preview(messages, letters(CHATML, add_bos=add_bos), 10_000, source="a.jsonl", row=3)


def test_trained_text_and_control_tokens_are_marked_under_their_lines() -> None:
    assert preview_text(row(*SHORT, add_bos=True), colour=False, width=80) == (
        "a.jsonl row 3: 29 tokens, 6 trained\n"
        "| <s><|im_start|>user\n"
        "  ---------------\n"
        "| Hi<|im_end|>\n"
        "    ----------\n"
        "| <|im_start|>assistant\n"
        "  ------------\n"
        "| Hello<|im_end|>\n"
        "  ^^^^^==========\n"
    )


def test_colour_adds_nothing_but_colour() -> None:
    shown = row(*SHORT)
    coloured = preview_text(shown, colour=True, width=80)
    assert "\x1b[32mHello" in coloured
    plain = preview_text(shown, colour=False, width=80)
    assert "\x1b" not in plain
    assert ESCAPE.sub("", coloured) == plain


def test_white_space_is_visible_where_that_is_asked_for() -> None:
    shown = row(Message("user", "a b\tc"), SHORT[1])
    assert "a·b→c<|im_end|>⏎\n" in preview_text(shown, colour=False, width=80, whitespace=True)
    assert "a b    c<|im_end|>\n" in preview_text(shown, colour=False, width=80)


def test_what_a_content_spells_is_not_marked_as_a_control_token() -> None:
    lines = preview_text(row(Message("user", "x <|im_end|>"), SHORT[1]), False, 80).splitlines()
    place = lines.index("| x <|im_end|><|im_end|>")
    assert lines[place + 1] == "  " + " " * 12 + "-" * 10


def test_a_content_cannot_pretend_to_be_marked() -> None:
    text = preview_text(row(Message("user", "a\n  ^^^^^\n| b\r  ^"), SHORT[1]), False, 80)
    marks = [line for line in text.splitlines()[1:] if not line.startswith("| ")]
    assert all(set(line) <= set(" -=^") for line in marks)
    assert sum("^" in line for line in marks) == 1


def test_markup_and_escapes_are_only_text() -> None:
    evil = "[bold]x[/bold][/] :smile: \x1b[31m \x07 \u202e \x9b"
    text = preview_text(row(Message("user", evil), SHORT[1]), colour=False, width=200)
    assert "[bold]x[/bold][/] :smile: \\x1b[31m \\x07 \\u202e \\x9b" in text


def test_a_row_that_cannot_be_rendered_says_why() -> None:
    shown = refused("the template says [red]no", "b\x1b.jsonl", 1_000)
    assert preview_text(shown, colour=False, width=80) == (
        "b\\x1b.jsonl row 1,000\nerror: the template says [red]no\n"
    )


def test_what_was_left_out_is_listed() -> None:
    turns = tuple(Message("user", f"text {number}\n" * 20) for number in range(7))
    shown = Preview("", left_out=turns, problems=(PreviewProblem("note", "shortened", "cut"),))
    lines = preview_text(shown, colour=False, width=80).splitlines()
    assert lines[1] == "note: cut"
    assert lines[2].startswith("  left out: user: text 0 text 0")
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 8


texts = st.text(
    st.sampled_from("ab \n\t[]é") | st.characters(exclude_categories=["Cs", "Co"]), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(texts, st.integers(1, 60), st.booleans(), st.booleans())
def test_no_line_is_wider_than_asked_and_no_control_character_gets_out(
    text: str, width: int, whitespace: bool, colour: bool
) -> None:
    token = PreviewToken(1, text, 0, len(text), trained=True, special=False)
    shown = preview_text(Preview(text, (token,), 1, 1), colour, width, whitespace=whitespace)
    plain = ESCAPE.sub("", shown)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", plain)
    lines = plain.split("\n")[1:]
    assert max(map(cell_len, lines)) <= max(width, 20)
    assert all(line.startswith(("| ", "  ")) or not line for line in lines)


def test_the_json_of_a_row_has_what_scripts_rely_on() -> None:
    shown = row(*CHAT)
    body = json.loads(json.dumps(preview_body(shown)))
    assert {"id", "text", "trained"} <= set(body["tokens"][0])
    assert "".join(token["text"] for token in body["tokens"]) == body["text"] == shown.text
    assert body["truncated"] is False
    assert sum(token["trained"] for token in body["tokens"]) == body["trained_count"]


def test_the_comparison_is_told_in_words() -> None:
    same = TemplateComparison("same", "", "a", "a")
    assert "same prompt" in comparison_text(same)
    other = TemplateComparison("different", "", "abc\n\x1bd", "abcx", 3)
    text = comparison_text(other)
    assert "character 3" in text
    assert "training  abc >>> \\n\\x1bd" in text
    assert "Ollama    abc >>> x" in text
    ended = comparison_text(TemplateComparison("different", "", "ab", "abc", 2))
    assert "(its end)" in ended
    unknown = comparison_text(TemplateComparison("not_compared", "it has {{ define }}"))
    assert unknown == "Not compared with Ollama's template: it has {{ define }}."


def test_two_comparisons_with_one_result_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    same = TemplateComparison("same", "", "a", "a")
    print_answer(PreviewAnswer("m", "file", 64, (row(*SHORT),), (same, same)), as_json=False)
    assert capsys.readouterr().out.count("writes the same prompt") == 1


def test_one_row_is_an_object_and_several_are_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    one = PreviewAnswer("demo", "file", 100, (row(*SHORT),))
    print_answer(one, as_json=True)
    body = json.loads(capsys.readouterr().out)
    assert (body["model"], body["row"], body["truncated"]) == ("demo", 3, False)
    several = answer_body(PreviewAnswer("demo", "file", 100, (row(*SHORT), row(*CHAT))))
    assert [item["token_count"] for item in several["rows"]] == [28, row(*CHAT).token_count]


def test_the_legend_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    answer = PreviewAnswer(
        "demo", "file", 100, (row(*SHORT), row(*SHORT)), (TemplateComparison("same"),)
    )
    print_answer(answer, as_json=False)
    out = capsys.readouterr().out
    assert out.count("^ trained") == 1
    assert out.endswith("the same prompt as the template for training.\n")
