"""Go templates are rendered as Ollama renders them, or not at all.

The outputs were derived by hand from the documentation of Go's text/template, and were compared
with what Go itself writes for these templates.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.go_parse import GoTemplateError
from llamaforge.data.go_template import GoTemplate
from llamaforge.data.records import Message

CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
CHATML_BY_EXCHANGE = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
LLAMA3 = (
    "{{ if .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>{{ end }}"
    '{{ range .Messages }}{{ if ne .Role "system" }}'
    "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = """\
{{- $system := .System }}
{{- range $place, $turn := .Messages }}
{{- $last := eq (len (slice $.Messages $place)) 1 }}
{{- if eq $turn.Role "user" }}<start_of_turn>user
{{ if and (le $place 1) $system }}{{ $system }}

{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- if and $last (eq .Role "user") }}<start_of_turn>model
{{ end }}
{{- end }}"""
MISTRAL = """\
{{- range $n, $turn := .Messages }}
{{- if eq $turn.Role "user" }}[INST] {{ $left := len (slice $.Messages $n) }}
{{- if and $.System (eq $left 1) }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq $turn.Role "assistant" }} {{ .Content }}</s>
{{- end }}
{{- end }}"""
CHAT = (
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
)


def render(text: str, messages: Sequence[Message] = CHAT) -> str:
    return GoTemplate(text).render(messages)


def test_chatml() -> None:
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_that_knows_no_messages_is_called_once_an_exchange() -> None:
    assert render(CHATML_BY_EXCHANGE) == render(CHATML)


def test_llama_3() -> None:
    assert render(LLAMA3) == (
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_gemma() -> None:
    assert render(GEMMA) == (
        "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )


def test_mistral() -> None:
    assert render(MISTRAL) == "[INST] Hi[/INST] Hello</s>[INST] Be brief.\n\nBye[/INST]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What a template names neither messages nor a response gets the response at its end.
        ("{{ .Prompt }}", "HiHelloBye"),
        ("{{ .System }}|{{ .Prompt }}|", "Be brief.|Hi|Hello|Bye|"),
        # Of the last exchange nothing after the response is written, white space neither.
        ("<{{ .Prompt }}>{{ .Response }}</s>\n", "<Hi>Hello</s>\n<Bye>"),
        ("{{ if .Prompt }}{{ .Prompt }}:{{ .Response }};{{ end }}!", "Hi:Hello;!Bye:"),
        # Trim markers take all white space beside them, on their side only.
        ("a \n {{- .System -}} \t b{{ .Response }}", "aBe brief.bHelloab"),
        ("{{ range .Messages }} {{- .Role }} {{ end }}", "system user assistant user "),
        ("{{/* a comment */}}{{- /* another */ -}}  {{ len .Messages }}", "4"),
        # Variables: a new one ends with its block, an old one can be set from inside.
        (
            '{{ $x := "a" }}{{ range .Messages }}{{ $x := "b" }}{{ end }}{{ $x }}',
            "a",
        ),
        (
            '{{ $x := "" }}{{ range .Messages }}{{ $x = .Role }}{{ end }}{{ $x }}',
            "user",
        ),
        ("{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Role }},{{ end }}",
         "0system,1user,2assistant,3user,"),
        ("{{ range $m := .Messages }}{{ $m.Content }},{{ end }}", "Be brief.,Hi,Hello,Bye,"),
        ("{{ range .Messages }}{{ if eq .Role `system` }}{{ continue }}{{ end }}{{ .Content }}"
         "{{ if eq .Role `assistant` }}{{ break }}{{ end }}{{ end }}", "HiHello"),
        ("{{ range .Tools }}x{{ else }}none{{ end }}{{ len .Messages }}", "none4"),
        ("{{ with .System }}<{{ . }}>{{ end }}{{ with $.Tools }}x{{ else }}y{{ end }}"
         "{{ .Messages | len }}", "<Be brief.>y4"),
        ("{{ (index .Messages 1).Content }}{{ $.Missing }}{{ len .Messages }}", "Hi<no value>4"),
        ('{{ if or (eq .System "x" "Be brief.") .Nope }}1{{ else if .System }}2{{ end }}'
         "{{ len .Messages }}", "14"),
        ('{{ and .System "x" }}{{ or .Nope "y" }}{{ not .System }}{{ len .Messages }}', "xyfalse4"),
        ("{{ if and .Nope (index .Messages 99) }}{{ end }}{{ len .Messages }}", "4"),
        ('{{ "a\\n\\t\\"\\u00e9" }}{{ `raw\\n` }}{{ len "é" }}{{ len .Messages }}',
         'a\n\t"éraw\\n24'),
        ("{{ print .System 1 2 }}{{ print 1 2 }}{{ len .Messages }}", "Be brief.1 21 24"),
        ("{{ .Think }}{{ lt 1 2 }}{{ ge .System `C` }}{{ len .Messages }}", "falsetruefalse4"),
    ],
)  # fmt: skip
def test_one_rule_at_a_time(text: str, expected: str) -> None:
    assert render(text) == expected


def test_neighbours_of_one_role_are_one_message() -> None:
    turns = [Message("user", "a"), Message("user", "b"), Message("tool", "c"), Message("tool", "d")]
    text = "{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}{{ .System }}"
    assert render(text, turns) == "[user:a\n\nb][tool:c][tool:d]"
    system = [Message("system", "a"), Message("user", "x"), Message("system", "b")]
    assert render(text, system) == "[system:a][user:x][system:b]a\n\nb"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ define `x` }}{{ end }}{{ .Prompt }}", "define"),
        ("{{ template `x` }}", "template"),
        ("{{ json .Messages }}", "json"),
        ("{{ currentDate }}{{ .Messages }}", "currentDate"),
        ("{{ printf `%s` .System }}{{ .Response }}", "printf"),
        ("{{ nonsense .System }}", "nonsense"),
        ("{{ .Messages }}", "printing a list"),
        ("{{ range .Messages }}{{ .Nope }}{{ end }}", "no .Nope"),
        ("{{ range .Messages }}{{ .Role", "cut off"),
        ("{{ range .Messages }}", "without an end"),
        ("{{ end }}", "without a beginning"),
        ("{{ if eq .System 1 }}{{ end }}{{ .Messages }}", "compared"),
        ("{{ slice .System 1 }}{{ len .Messages }}", "slice of a text"),
        ("{{ range .System }}{{ end }}{{ len .Messages }}", "range over a text"),
        ("{{ break }}", "outside of a range"),
        ("{{ /* c }}", "cannot be read"),
        ("{{/* c }}", "comment"),
        ("{{ 1.5 }}", "cannot be read"),
        ("{{ $x }}{{ .Response }}", r"\$x is not defined"),
        ("{{ index .Messages 9 }}", "out of range"),
        ("{{ .System nil }}{{ .Response }}", "arguments"),
        ("{{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}", "else"),
        ("{{ if 1 }}" * 60 + "{{ end }}" * 60, "nested too deep"),
        ("{{ " + "(" * 60 + ".System }}", "nested too deep"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said_and_not_guessed(text: str, said: str) -> None:
    with pytest.raises(GoTemplateError, match=said):
        render(text)


def test_loops_within_loops_come_to_an_end() -> None:
    text = "{{ range $.Messages }}" * 12 + "x" + "{{ end }}" * 12
    with pytest.raises(GoTemplateError, match="without end"):
        render(text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["{{", "}}", "{{- ", " -}}", "range .Messages", "end", "else", "if ", ".Role",
             ".System", "$x := ", "$x", "(", ")", "|", '"a"', "`", '"', "eq ", " ", "\n", "1", "\\",
             "/*", "*/", ".", ",", "é", "with ", "$i, $m := .Messages", "break", "nil", "=",
             "\ud800"]
        ),
        max_size=14,
    ).map("".join)
)  # fmt: skip
def test_any_text_is_rendered_or_refused(text: str) -> None:
    try:
        found = render(text)
    except GoTemplateError as error:
        assert str(error)  # noqa: PT017 - either of the two is right
    else:
        assert isinstance(found, str)
        assert "{{ end }}" not in found


contents = st.text(st.sampled_from("ab\n é{}%<|>"), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(contents, contents.filter(bool)), max_size=4), contents)
def test_what_a_content_says_is_written_as_it_is(
    exchanges: list[tuple[str, str]], question: str
) -> None:
    turns = [
        Message(role, text)
        for pair in exchanges
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    turns.append(Message("user", question))
    expected = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in turns)
    assert render(CHATML, turns) == expected + "<|im_start|>assistant\n"
