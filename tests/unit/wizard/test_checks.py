"""What keeps a run from beginning is said with the change that mends it."""

from dataclasses import replace
from pathlib import Path

import pytest

from llamaforge import hardware, paths
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.preflight import needs_of
from llamaforge.wizard.bases import BaseFacts
from llamaforge.wizard.checks import Check, checks, spec_of
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts, gathered

REPORT = {
    "rows": {"accepted": 60, "repaired": 0},
    "analysis": {"lengths": {"tokens": {"p50": 20}, "suggested_max_length": 128}},
    "model": {"template": "file"},
    "problems": [],
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "home"))


@pytest.fixture
def facts() -> Facts:
    return replace(gathered([paths.embedded_store()]), report=REPORT)


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 60)
    return Draft(model="llamaforge-demo", store=str(paths.embedded_store()), base="gguf",
                 sources=(str(path),), goal="style", preset="balanced")  # fmt: skip


def found(draft: Draft, facts: Facts) -> dict[str, Check]:
    return {item.title: item for item in checks(draft, facts)}


def test_all_is_well_on_a_machine_with_room(draft: Draft, facts: Facts) -> None:
    lines = found(draft, facts)
    assert {item.verdict for item in lines.values()} == {"pass"}
    assert set(lines) == {"Rows", "Offline", "Memory", "Disk", "Chat template", "Converter"}


def test_too_little_disk_is_mended_by_a_smaller_adapter(
    draft: Draft, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = draft.with_answers(settings={"lora_r": "4"})
    spec = spec_of(small, facts)
    room = needs_of(spec, read_model(spec.model.blob)).disk + 1
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda folder: room)
    disk = found(draft, facts)["Disk"]
    assert disk.verdict == "fail"
    assert disk.fix is not None
    mended = draft.with_answers(**disk.fix.answers)
    assert mended.settings["lora_r"] == "4"
    assert found(mended, facts)["Disk"].verdict == "pass"


def test_too_little_memory_for_anything_has_no_fix(
    draft: Draft, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1_000_000)
    memory = found(draft, facts)["Memory"]
    assert (memory.verdict, memory.fix) == ("fail", None)
    assert memory.hint


@pytest.mark.parametrize(
    ("code", "level", "answers"),
    [
        ("secrets", "stop", {"allow_secrets": True}),
        ("rejected_rows", "stop", {"settings": {"max_rejected_fraction": "1"}}),
        ("lengths", "warn", {"settings": {"max_length": "128"}}),
        ("else", "stop", None),
    ],
)
def test_rows_are_mended_where_they_can_be(
    draft: Draft, facts: Facts, code: str, level: str, answers: dict[str, object] | None
) -> None:
    problems = [{"level": level, "code": code, "message": "It is so."}]
    lines = checks(draft, replace(facts, report=REPORT | {"problems": problems}))
    line = next(item for item in lines if item.message == "It is so.")
    assert line.verdict == ("fail" if level == "stop" else "warn")
    assert (None if line.fix is None else dict(line.fix.answers)) == answers
    if answers:
        draft.with_answers(**answers).recipe(())


def test_weights_that_are_not_here_can_be_downloaded(draft: Draft, facts: Facts) -> None:
    base = BaseFacts(repo="maker/tiny", must_fetch=True)
    line = found(draft.with_answers(base="hub"), replace(facts, base=base))["Weights"]
    assert line.verdict == "fail"
    assert line.fix is not None
    assert line.fix.fetches == "maker/tiny"


def test_a_model_without_a_template_can_be_given_one(draft: Draft, facts: Facts) -> None:
    line = found(draft, replace(facts, report=REPORT | {"model": {"template": "plain"}}))
    fix = line["Chat template"].fix
    assert fix is not None
    assert draft.with_answers(**fix.answers).recipe(()).model.chat_template == "chatml"


def test_no_server_is_no_obstacle(
    draft: Draft, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    line = found(draft.with_answers(publish="mine"), facts)["Ollama"]
    assert line.verdict == "warn"
    assert line.fix is not None
    assert line.fix.answers == {"publish": ""}
