"""A merged file brings everything along, and takes its name as an adapter does."""

from pathlib import Path
from typing import Any

import pytest

from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.publishing.journal import read_journal
from llamaforge.publishing.ollama import publish
from llamaforge.publishing.request import Companion
from tests.contract.publishing.fake_ollama import Fault
from tests.contract.publishing.publishing_desk import BASE, PATIENT, Desk, write_adapter
from tests.contract.publishing.test_publish_to_ollama import Killed, Mortal, trials

STEPS = 31
CARRIED: dict[str, Any] = {
    "template": "{{ .Prompt }}!",
    "system": 'Say """yes"""',
    "parameters": {"stop": ["<|im_end|>"], "temperature": 0.5},
    "messages": [{"role": "user", "content": "Hi"}],
}


@pytest.fixture
def merged(desk: Desk, tmp_path: Path) -> Desk:
    path = tmp_path / "merged.gguf"
    digest = write_adapter(path, kind="model")
    desk.server.version = "0.40.0"
    desk.server.takes_adapters = False
    changes = desk.request.__dict__ | CARRIED | {"file": path, "file_sha256": digest}
    changes |= {"form": "gguf", "licenses": ("MIT", "Apache"), "renderer": "r", "parser": "p"}
    desk.request = type(desk.request)(**changes)
    return desk


def test_all_that_the_model_has_is_sent_with_the_file(merged: Desk) -> None:
    result = merged.publish()
    made = merged.server.get("mine")
    assert made is not None
    assert made.weights == merged.request.file_sha256
    assert made.adapters == []
    assert (made.template, made.system) == (CARRIED["template"], CARRIED["system"])
    assert (made.parameters, made.messages) == (CARRIED["parameters"], CARRIED["messages"])
    assert (made.license, made.renderer, made.parser) == ("MIT\nApache", "r", "p")
    assert (result.form, result.base_checked, result.digest) == ("gguf", None, made.digest)
    for request in merged.server.requests("POST", "/api/create"):
        assert not request.body.keys() & {"from", "adapters"}


def test_what_the_model_does_not_have_is_not_sent(merged: Desk) -> None:
    merged.publish(
        template=None, system=None, parameters=None, messages=None, licenses=(), renderer=None,
        parser=None,
    )  # fmt: skip
    for request in merged.server.requests("POST", "/api/create"):
        assert set(request.body) == {"model", "files", "stream"}


def with_companions(merged: Desk, folder: Path) -> dict[str, Any]:
    projector, draft = folder / "sha256-p", folder / "sha256-d"
    return {
        "projectors": (Companion(projector, write_adapter(projector, "clip", kind="mmproj")),),
        "drafts": (Companion(draft, write_adapter(draft, "qwen2", kind="model")),),
        "requires": "0.30.0",
    }


def test_what_lies_beside_the_weights_goes_along(merged: Desk, tmp_path: Path) -> None:
    more = with_companions(merged, tmp_path)
    result = merged.publish(**more)
    made = merged.server.get("mine")
    assert made is not None
    assert made.weights == merged.request.file_sha256
    assert made.projectors == [more["projectors"][0].sha256]
    assert made.drafts == [more["drafts"][0].sha256]
    assert made.requires == "0.30.0"
    assert result.left_out == ()
    sent = len(merged.server.requests("POST", "/api/blobs/"))
    assert sent == 3
    assert merged.publish(**more).digest == made.digest
    assert len(merged.server.requests("POST", "/api/blobs/")) == sent


def test_what_a_server_does_not_take_is_told(merged: Desk, tmp_path: Path) -> None:
    merged.server.takes_drafts = False
    assert merged.publish(**with_companions(merged, tmp_path)).left_out == ("draft model",)


@pytest.mark.parametrize("step", range(1, 12))
def test_killed_while_more_is_sent_a_repeat_completes_it(
    merged: Desk, step: int, tmp_path: Path
) -> None:
    more = with_companions(merged, tmp_path)
    with Mortal(step), pytest.raises(Killed):
        merged.publish(**more)
    merged.publish(**more)
    made = merged.server.get("mine")
    assert made is not None
    assert (len(made.projectors), len(made.drafts)) == (1, 1)
    assert trials(merged) == []


def test_the_server_need_not_have_the_base(merged: Desk) -> None:
    merged.server.models.clear()
    assert merged.publish().digest


def test_a_server_that_writes_the_weights_anew_is_believed(merged: Desk) -> None:
    merged.server.rewrites_weights = True
    first = merged.publish()
    made = merged.server.get("mine")
    assert made is not None
    assert made.weights != merged.request.file_sha256
    requests = len(merged.server.requests("POST", "/api/create"))
    assert merged.publish().digest == first.digest
    assert len(merged.server.requests("POST", "/api/create")) == requests


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_where_the_weights_are_written_anew_a_repeat_completes_it(
    merged: Desk, step: int, taken: bool
) -> None:
    merged.server.rewrites_weights = True
    old = merged.server.add("mine", "0" * 64) if taken else None
    with Mortal(step), pytest.raises(Killed):
        merged.publish(overwrite=taken)
    result = merged.publish(overwrite=taken)
    made = merged.server.get("mine")
    assert made is not None
    assert made.weights != "0" * 64
    assert result.digest == made.digest
    assert result.previous_digest == (old.digest if old else None)
    assert trials(merged) == []


def test_another_model_with_the_name_is_not_taken_for_what_an_earlier_attempt_made(
    merged: Desk,
) -> None:
    merged.server.rewrites_weights = True
    merged.publish()
    other = merged.server.add("mine", "1" * 64)
    with pytest.raises(RefusedError) as caught:
        merged.publish()
    assert caught.value.code == "name_taken"
    assert merged.server.get("mine") is other
    assert trials(merged) == []


def test_a_success_that_left_the_base_is_a_failure(merged: Desk) -> None:
    old = merged.server.add("mine", BASE)
    merged.server.fail("/api/create", Fault.NOT_STORED, skip=1)
    with pytest.raises(LlamaForgeError) as caught:
        merged.publish(overwrite=True)
    assert caught.value.code == "not_there"
    assert merged.server.get("mine") is old


def test_an_adapter_is_no_merged_file(merged: Desk, tmp_path: Path) -> None:
    digest = write_adapter(tmp_path / "a.gguf")
    with pytest.raises(InvalidFileError) as caught:
        merged.publish(file=tmp_path / "a.gguf", file_sha256=digest)
    assert caught.value.code == "not_a_model"


def test_stopping_while_it_is_sent_leaves_nothing_on_the_server(merged: Desk) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        publish(merged.request, journal=merged.journal, on_progress=stop, limits=PATIENT)
    assert merged.server.get("mine") is None
    assert trials(merged) == []
    assert merged.publish().digest


def test_a_file_that_changed_is_refused(merged: Desk) -> None:
    with pytest.raises(InvalidFileError) as caught:
        merged.publish(file_sha256="0" * 64)
    assert caught.value.code == "file_changed"
    assert merged.server.seen == []


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_any_step_a_repeat_completes_it(merged: Desk, step: int) -> None:
    old = merged.server.add("mine", "0" * 64)
    with Mortal(step) as process, pytest.raises(Killed):
        merged.publish(overwrite=True)
    assert process.steps == step
    result = merged.publish(overwrite=True)
    made = merged.server.get("mine")
    assert made is not None
    assert made.weights == merged.request.file_sha256
    assert result.previous_digest == old.digest
    assert trials(merged) == []
    assert read_journal(merged.journal)


def test_the_steps_above_are_all_that_there_are(merged: Desk) -> None:
    merged.server.add("mine", "0" * 64)
    with Mortal(STEPS + 5) as process:
        merged.publish(overwrite=True)
    assert process.steps == STEPS
