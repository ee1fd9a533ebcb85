"""Rows are looked through in another process, which no template can hold up or fill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamaforge import paths
from llamaforge.data.preview_request import PreviewRequest
from llamaforge.data.sources import Source
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.recipe.spec import DataChoice
from llamaforge.runs import data_checks, previews
from llamaforge.runs.asking import Question, answers

KEY = "ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz1"
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NEVER_ENDS = (
    "{% for a in messages * 4000 %}{% for b in messages * 4000 %}{% endfor %}{% endfor %}" + PLAIN
)


def rows(folder: Path, count: int = 12, answer: str = "Yes, it is.") -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"Is {number} a number?", "completion": answer}) + "\n"
            for number in range(count)
        )
    )
    return path


def checked(data: Path, template: str, seconds: float = 0.2) -> dict[str, Any]:
    request = CheckRequest(
        data=DataChoice(sources=[Source(path=str(data))], allow_secrets=True),
        model="llamaforge-demo",
        store=paths.embedded_store(),
        chat_template=template,
        row_seconds=seconds,
    )
    return data_checks.check(request.model_dump_json(), lambda what, rows: None)


def codes(found: dict[str, Any]) -> dict[str, str]:
    return {item["code"]: item["level"] for item in found["problems"]}


def test_a_template_that_never_ends_is_given_up_and_told(tmp_path: Path) -> None:
    started = time.monotonic()
    found = checked(rows(tmp_path, 40), NEVER_ENDS)
    assert time.monotonic() - started < 30
    assert found["rows"]["read"] == 40
    assert codes(found)["template_slow"] == "stop"
    assert found["can_train"] is False
    assert found["model"]["given_up"] == found["model"]["rendered_rows"] == 10
    assert found["analysis"]["lengths"]["rows"] == 40  # by their texts


def test_one_row_that_takes_long_only_warns(tmp_path: Path) -> None:
    template = "{% if messages[0].content == 'Is 3 a number?' %}" + NEVER_ENDS.replace(
        PLAIN, "{% endif %}" + PLAIN
    )
    found = checked(rows(tmp_path), template, seconds=1.0)
    assert codes(found)["template_slow"] == "warn"
    assert found["can_train"] is True


@pytest.mark.parametrize(
    "greedy",
    [
        "{{ 'x' * 9000000000 }}",
        "{% set ns = namespace(x='x' * 1000000) %}{% for i in range(40) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
)
def test_a_template_cannot_take_the_machines_memory(tmp_path: Path, greedy: str) -> None:
    found = checked(rows(tmp_path), greedy + PLAIN, seconds=5.0)
    assert codes(found)["template_slow"] == "stop"
    assert found["can_train"] is False


def test_a_gigantic_row_is_measured_without_being_rendered(tmp_path: Path) -> None:
    path = rows(tmp_path)
    with path.open("a") as file:
        file.write(json.dumps({"prompt": "Go on.", "completion": "word " * 400_000}) + "\n")
    found = checked(path, PLAIN, seconds=5.0)
    assert found["model"]["rendered_rows"] == 12
    assert found["analysis"]["lengths"]["tokens"]["max"] > 400_000
    request = PreviewRequest(
        model="llamaforge-demo", store=str(paths.embedded_store()), data=str(path), rows=(13,)
    )
    (shown,) = previews.ask(request).previews
    assert "too long to be shown" in shown.problems[0].message


def test_what_hears_no_signal_is_ended() -> None:
    code = (
        "from llamaforge.worker.limits import last_resort\n"
        "with last_resort(60.0): pass\n"
        "with last_resort(0.2):\n"
        "    while True: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGVTALRM


@pytest.mark.parametrize(
    ("number", "words"),
    [("SIGVTALRM", "takes too long for a row"), ("SIGKILL", "memory may be used up")],
)
def test_how_a_process_was_ended_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, words: str
) -> None:
    (tmp_path / "asked_module.py").write_text(
        f"import os, signal; os.kill(os.getpid(), signal.{number})"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(RefusedError, match=words):
        list(answers(Question("asked_module", "", seconds=60.0)))


def test_a_template_that_refuses_a_row_does_not_tell_its_secrets(tmp_path: Path) -> None:
    found = checked(
        rows(tmp_path, answer=f"The key is {KEY}."), "{{ raise_exception(messages[1].content) }}"
    )
    assert codes(found)["template_refuses"] == "stop"
    assert KEY not in json.dumps(found)


def test_what_a_process_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "pid"
    (tmp_path / "asked_module.py").write_text(
        "import json, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(noted)!r}, 'w').write(str(child.pid))\n"
        "print(json.dumps({'type': 'progress'}), flush=True)\n"
        "child.wait()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    asked = answers(Question("asked_module", "", seconds=60.0))
    assert next(asked) == {"type": "progress"}
    asked.close()  # type: ignore[attr-defined]
    assert not _lives(int(noted.read_text()))


def test_a_process_that_dies_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(LlamaForgeError, match="looking through the rows") as caught:
        data_checks.check("no request", lambda what, rows: None)
    assert "renders" not in caught.value.message


def _lives(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.05)
    return True
