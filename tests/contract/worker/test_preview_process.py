"""Rows are rendered in another process, which a template cannot hold up or fill."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamaforge import paths
from llamaforge.data import preview_request
from llamaforge.data.preview import preview
from llamaforge.data.preview_request import PreviewRequest, read_request
from llamaforge.data.records import Message
from llamaforge.errors import ExitCode, LlamaForgeError, NotFoundError, RefusedError, UsageError
from llamaforge.runs import previews
from llamaforge.runs.previews import PreviewAnswer, ask
from tests.unit.chat.test_preview import demo

CHAT = (Message("user", "Hi"), Message("assistant", "Hello 👍"))
WILD = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "recurses": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "multiplies": "{{ m.role * 1000000000 }}",
    "doubles": "{% set ns = namespace(x=m.role * 1000000) %}{% for i in range(40) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "writes": "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    "looks outside": "{{ m.__class__.__mro__ }}",
    "calls": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "takes long": "{% for a in messages * 4000 %}{% for b in messages * 4000 %}{% endfor %}"
    "{% endfor %}",
}


def asked(**settings: Any) -> PreviewAnswer:
    values = {"conversations": (CHAT,)} | settings
    request = PreviewRequest(model="llamaforge-demo", store=str(paths.embedded_store()), **values)
    return ask(request)


def test_the_answer_is_the_preview_that_this_process_would_make() -> None:
    answer = asked(chat_template="chatml", max_length=500)
    (shown,) = answer.previews
    here = preview(CHAT, demo(), 500, row=1)
    assert shown == here
    assert (answer.model, answer.template, answer.max_length) == (
        "llamaforge-demo:latest", "chatml", 500,
    )  # fmt: skip


def test_rows_come_from_a_data_file_by_their_numbers(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    data.write_text(f"{json.dumps(good)}\n\nnot json\n{json.dumps(good)}\n", encoding="utf-8")
    answer = asked(conversations=(), data=str(data), rows=(4, 3))
    assert [(shown.row, shown.trainable) for shown in answer.previews] == [(3, False), (4, True)]
    assert answer.previews[0].problems[0].code == "unreadable"
    assert answer.previews[1].source == str(data)
    with pytest.raises(LlamaForgeError, match="no row 9") as caught:
        asked(conversations=(), data=str(data), rows=(9,))
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_only_the_last_answer_and_the_longest_length_are_passed_on() -> None:
    chat = (*CHAT, *CHAT)
    every = asked(conversations=(chat,), max_length=10_000_000)
    assert 0 < every.max_length < 10_000_000
    last = asked(conversations=(chat,), train_on="last")
    assert every.previews[0].trained_count == 2 * last.previews[0].trained_count
    cut = asked(conversations=(chat,), max_length=every.previews[0].token_count - 1)
    assert cut.previews[0].shortened == 2


def test_the_templates_are_compared_with_a_system_message_and_without() -> None:
    answer = asked(compare=True)
    assert [item.state for item in answer.comparisons] == ["same", "same"]
    assert "system" in answer.comparisons[0].trained
    assert "system" not in answer.comparisons[1].trained
    other = asked(compare=True, chat_template="plain")
    assert [item.state for item in other.comparisons] == ["different", "different"]


def test_a_row_that_makes_the_template_run_wild_is_refused_alone() -> None:
    branches = "".join(
        f"{{% if m.content == '{name}' %}}{code}{{% endif %}}" for name, code in WILD.items()
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        + branches
        + "{% endfor %}"
    )
    rows = [(Message("user", name), CHAT[1]) for name in WILD]
    started = time.monotonic()
    *wild, last = asked(
        conversations=(*rows, CHAT), chat_template=template, row_seconds=1.0
    ).previews
    assert time.monotonic() - started < 30
    said = {name: shown.problems[0].message for name, shown in zip(WILD, wild, strict=True)}
    assert [item.code for shown in wild for item in shown.problems] == ["refused"] * len(WILD)
    assert "loops without end" in said["loops"]
    assert "recursion" in said["recurses"]
    assert "memory" in said["multiplies"]
    assert "1 seconds" in said["takes long"]
    assert last.trainable


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_what_does_not_come_back_is_ended() -> None:
    # A power of whole numbers is worked out in C, where no signal is heard.
    before = children()
    request = PreviewRequest(
        model="llamaforge-demo",
        store=str(paths.embedded_store()),
        conversations=(CHAT,),
        chat_template="{% set n = messages | length %}{{ (n + 7) ** (n * 100000000) }}",
    )
    started = time.monotonic()
    with pytest.raises(RefusedError) as caught:
        ask(request, timeout_seconds=3)
    assert caught.value.code == "preview_timeout"
    assert time.monotonic() - started < 10
    assert children() == before


def test_an_answer_that_has_no_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MOST_ANSWER_BYTES", 1000)
    with pytest.raises(RefusedError) as caught:
        asked()
    assert caught.value.code == "preview_size"


def test_a_process_that_dies_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RefusedError) as caught:
        asked()
    assert caught.value.code == "preview_died"


def test_what_is_wrong_with_the_request_is_told() -> None:
    with pytest.raises(LlamaForgeError) as caught:
        asked(chat_template="{% for %}")
    assert caught.value.code == "chat_template"
    with pytest.raises(LlamaForgeError) as missing:
        ask(PreviewRequest(model="nothing-of-the-kind", store=str(paths.embedded_store())))
    assert missing.value.exit_code is NotFoundError.exit_code


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"model": 1}', b'{"model":"x","odd":1}', b"\xff", b"[" * 100_000]
)
def test_a_request_that_is_none_is_a_usage_error(body: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        read_request(body)
    assert caught.value.code == "preview_request"


def test_a_request_that_is_too_large_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_request, "MOST_REQUEST_BYTES", 10)
    with pytest.raises(UsageError, match="more than 10 bytes"):
        read_request(b'{"model": "x"}')


def test_the_process_answers_a_bad_request_on_its_output() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamaforge.worker.preview"],
        input=b"{",
        capture_output=True,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["type"] == "error"
    assert not done.stderr


def test_the_process_loads_no_heavy_library_and_gets_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = (
        "import llamaforge.worker.preview, sys; "
        "print([n for n in ('torch', 'transformers', 'llama_cpp', 'textual') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen: list[dict[str, str]] = []
    real = subprocess.Popen

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(options["env"])
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    asked()
    assert "HF_TOKEN" not in seen[0]
