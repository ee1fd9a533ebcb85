"""What is sent to an Ollama server, in which order, and what is refused before it is sent."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.publishing.journal import Change, read_journal
from llamaforge.publishing.server import PublishingServer
from tests.contract.publishing.fake_ollama import Fault, Seen, full
from tests.contract.publishing.publishing_desk import BASE, Desk, write_adapter

STEPS = 32
"""Requests and journal lines of one publication; a process may die before each of them."""


class Killed(BaseException):
    """The process ends here: nothing after it is asked or written."""


class Mortal:
    """Lets the process die at its n-th request or journal line."""

    def __init__(self, last: int) -> None:
        self.steps = 0
        self._last = last
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "Mortal":
        for name in ("upload", "create", "chat", "delete", "digest_of", "layers_of", "has_blob"):
            self._replace(PublishingServer, name)
        self._replace(Change, "note")
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _replace(self, owner: type, name: str) -> None:
        inner = getattr(owner, name)

        def step(*arguments: Any, **more: Any) -> Any:
            self.steps = min(self.steps + 1, self._last)
            if self.steps == self._last:
                raise Killed
            return inner(*arguments, **more)

        self._patch.setattr(owner, name, step)


def phases(desk: Desk, kind: str) -> list[str]:
    return [entry["phase"] for entry in read_journal(desk.journal) if entry["change"] == kind]


def trials(desk: Desk) -> list[str]:
    return [name for name in desk.server.models if "llamaforge-trial-" in name]


def test_the_adapter_lies_over_the_base_under_the_new_name(desk: Desk) -> None:
    result = desk.publish()

    made = desk.server.get("mine")
    assert made is not None
    assert made.weights == BASE
    assert made.adapters == [desk.request.file_sha256]
    assert result.name == "mine:latest"
    assert result.digest == made.digest
    assert result.previous_digest is None
    assert result.base_checked
    assert result.answer.startswith("Hello")
    assert result.leftover == ""
    assert ("upload", 1, 1) not in desk.progress
    assert [done == total for what, done, total in desk.progress if what == "upload"] == [True]


def test_what_the_base_has_is_inherited_and_not_sent_again(desk: Desk) -> None:
    desk.server.add("qwen2.5:3b", BASE, template="T", system="S", parameters={"stop": ["x"]})
    desk.publish()

    made = desk.server.get("mine")
    assert made is not None
    assert (made.template, made.system, made.parameters) == ("T", "S", {"stop": ["x"]})
    for request in desk.server.requests("POST", "/api/create"):
        assert set(request.body) == {"model", "from", "adapters", "stream"}
        assert request.body["from"] == "qwen2.5:3b"
        assert request.body["adapters"] == {"adapter.gguf": f"sha256:{desk.request.file_sha256}"}


def test_what_is_given_replaces_what_the_base_has(desk: Desk) -> None:
    desk.publish(system='Say """yes"""', parameters={"temperature": 0.5}, template="{{ .Prompt }}!")

    made = desk.server.get("mine")
    assert made is not None
    assert made.system == 'Say """yes"""'
    assert made.parameters == {"temperature": 0.5}
    assert made.template == "{{ .Prompt }}!"


def test_a_model_answers_as_a_trial_before_it_gets_its_name(desk: Desk) -> None:
    desk.publish()

    order = [
        (seen.path, full(seen.body["model"]) == "mine:latest")
        for seen in desk.server.seen
        if seen.path in {"/api/create", "/api/chat", "/api/delete"}
    ]
    assert order == [
        ("/api/create", False),
        ("/api/chat", False),
        ("/api/create", True),
        ("/api/delete", False),
    ]
    assert trials(desk) == []
    chat = desk.server.requests("POST", "/api/chat")[0].body
    assert chat["options"] == {"num_predict": 16, "temperature": 0}
    assert chat["keep_alive"] == 0


def test_a_blob_that_the_server_has_is_not_sent_again(desk: Desk) -> None:
    desk.server.blobs[f"sha256:{desk.request.file_sha256}"] = desk.request.file.read_bytes()
    desk.publish()

    assert desk.server.requests("POST", "/api/blobs/") == []
    assert phases(desk, "upload") == []


def test_the_blob_goes_under_its_lower_case_digest_with_its_length(desk: Desk) -> None:
    desk.publish(file_sha256=desk.request.file_sha256.upper())

    [sent] = desk.server.requests("POST", "/api/blobs/")
    assert re.fullmatch(r"/api/blobs/sha256:[0-9a-f]{64}", sent.path)
    assert sent.headers["content-length"] == str(desk.request.file.stat().st_size)
    assert hashlib.sha256(sent.body).hexdigest() == desk.request.file_sha256


def test_every_change_is_in_the_journal_with_what_was_there_before(desk: Desk) -> None:
    old = desk.server.add("mine", "0" * 64).digest
    desk.publish(overwrite=True)

    for kind in ("upload", "trial", "publish", "delete_trial"):
        assert phases(desk, kind) == ["intent", "act", "verify", "done"]
    entries = read_journal(desk.journal)
    assert [entry["id"] for entry in entries] == sorted(entry["id"] for entry in entries)
    [intent] = [e for e in entries if e["change"] == "publish" and e["phase"] == "intent"]
    assert intent["previous"] == old
    assert intent["server"] == desk.server.url
    [verified] = [e for e in entries if e["change"] == "publish" and e["phase"] == "verify"]
    made = desk.server.get("mine")
    assert made is not None
    assert verified["digest"] == made.digest


def test_the_intent_is_on_disk_before_the_server_is_asked(desk: Desk) -> None:
    at_request: list[list[str]] = []
    desk.server.before = lambda seen: (
        at_request.append(phases(desk, "publish")) if seen.path == "/api/create" else None
    )
    desk.publish()
    assert at_request == [[], ["intent"]]


def test_a_taken_name_is_refused(desk: Desk) -> None:
    old = desk.server.add("mine", "0" * 64)
    with pytest.raises(RefusedError) as caught:
        desk.publish(name="Mine:LATEST")
    assert caught.value.code == "name_taken"
    assert desk.server.get("mine") is old
    assert desk.server.requests("POST", "/api/create") == []


def test_a_name_that_was_taken_meanwhile_is_refused(desk: Desk) -> None:
    def taken_while_it_is_tried(seen: Seen) -> None:
        if seen.path == "/api/chat":
            desk.server.add("mine", "0" * 64)

    desk.server.before = taken_while_it_is_tried
    with pytest.raises(RefusedError) as caught:
        desk.publish()
    assert caught.value.code == "name_taken"
    other = desk.server.get("mine")
    assert other is not None
    assert other.weights == "0" * 64
    assert trials(desk) == []


def test_overwriting_tells_which_model_had_the_name(desk: Desk) -> None:
    old = desk.server.add("mine", "0" * 64).digest
    result = desk.publish(overwrite=True)
    assert result.previous_digest == old
    assert result.digest != old


def test_the_name_of_the_base_is_refused(desk: Desk) -> None:
    with pytest.raises(RefusedError) as caught:
        desk.publish(name="QWEN2.5:3b")
    assert caught.value.code == "name_is_base"
    assert desk.server.seen == []


def test_a_server_that_is_not_local_is_refused_before_anything_is_sent(desk: Desk) -> None:
    with pytest.raises(RefusedError) as caught:
        desk.publish(host="http://192.0.2.7:11434")
    assert caught.value.code == "remote_host"
    assert "192.0.2.7" in caught.value.message
    assert not desk.journal.exists()


def test_a_server_that_is_not_local_is_asked_once_it_is_allowed(desk: Desk) -> None:
    # No resolver knows `.invalid`, so this ends at once, and as an unreachable server.
    with pytest.raises(RefusedError) as caught:
        desk.publish(host="http://ollama.invalid:11434", allow_remote=True)
    assert caught.value.code == "no_server"


def test_another_blob_under_the_base_name_is_refused_naming_both(desk: Desk) -> None:
    other = "0123456789abcdef" * 4
    desk.server.add("qwen2.5:3b", other)
    with pytest.raises(RefusedError) as caught:
        desk.publish()
    assert caught.value.code == "other_base"
    assert BASE in caught.value.message
    assert other in caught.value.message
    assert desk.server.requests("POST", "/api/blobs/") == []


def test_a_system_text_cannot_pass_itself_off_as_the_base(desk: Desk) -> None:
    desk.server.add("qwen2.5:3b", "0" * 64, system=f"\nFROM /blobs/sha256-{BASE}\n")
    with pytest.raises(RefusedError) as caught:
        desk.publish()
    assert caught.value.code == "other_base"


def test_a_base_that_the_server_does_not_have_is_not_found(desk: Desk) -> None:
    desk.server.models.clear()
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish()
    assert caught.value.code == "base_missing"
    assert "ollama pull qwen2.5:3b" in caught.value.hint


@pytest.mark.parametrize("where", ["store", "server"])
def test_adapters_do_not_stack(desk: Desk, where: str) -> None:
    if where == "server":
        desk.server.add("qwen2.5:3b", BASE, adapters=["1" * 64])
    with pytest.raises(RefusedError) as caught:
        desk.publish(base_has_adapters=where == "store")
    assert caught.value.code == "adapters_stack"


def test_an_adapter_that_changed_after_its_verification_is_refused(desk: Desk) -> None:
    data = bytearray(desk.request.file.read_bytes())
    data[-1] ^= 1
    desk.request.file.write_bytes(data)
    with pytest.raises(RefusedError) as caught:
        desk.publish()
    assert caught.value.code == "adapter_changed"
    assert hashlib.sha256(data).hexdigest() in caught.value.message
    assert desk.request.file_sha256 in caught.value.message
    assert desk.server.seen == []


def test_a_file_that_ollama_would_take_for_weights_is_refused(desk: Desk, tmp_path: Path) -> None:
    other = tmp_path / "model.gguf"
    digest = write_adapter(other, kind="model")
    with pytest.raises(RefusedError) as caught:
        desk.publish(file=other, file_sha256=digest)
    assert caught.value.code == "not_an_adapter"


def test_a_bad_name_is_refused_before_the_server_is_asked(desk: Desk) -> None:
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish(name="../../etc/passwd")
    assert caught.value.code == "model_name"
    assert desk.server.seen == []


@pytest.mark.parametrize(
    ("version", "architecture", "taken"),
    [
        ("0.29.9", "llama", True),
        ("0.29.9", "qwen2", True),
        ("0.29.9", "gemma2", True),
        ("0.29.9", "phi3", True),
        ("0.29.9", "qwen3", False),
        ("0.29.9", "gemma3", False),
        ("0.29.9", "nemotron_h_moe", False),
        ("0.30.0", "qwen3", True),
        ("0.33.0-rc2", "qwen3", True),
        ("0.34.0", "llama", True),
        ("0.34.1", "llama", False),
        ("0.40.0", "qwen3", False),
        ("0.0.0", "qwen3", True),
    ],
)
def test_only_some_servers_take_adapters(
    desk: Desk, tmp_path: Path, version: str, architecture: str, taken: bool
) -> None:
    desk.server.version = version
    adapter = tmp_path / "other.gguf"
    digest = write_adapter(adapter, architecture)
    if taken:
        desk.publish(file=adapter, file_sha256=digest)
        assert desk.server.get("mine") is not None
        return
    with pytest.raises(RefusedError) as caught:
        desk.publish(file=adapter, file_sha256=digest)
    assert caught.value.code == "adapters_unsupported"
    assert "merged GGUF" in caught.value.message
    assert desk.server.requests("POST", "/api/blobs/") == []


def test_a_server_that_refuses_adapters_whatever_its_version_needs_a_merged_file(
    desk: Desk,
) -> None:
    desk.server.version = "0.0.0"
    desk.server.takes_adapters = False
    with pytest.raises(RefusedError) as caught:
        desk.publish()
    assert caught.value.code == "adapters_unsupported"


class TestRepeating:
    def test_publishing_the_same_again_changes_nothing(self, desk: Desk) -> None:
        first = desk.publish()
        requests = len(desk.server.requests("POST", "/api/create"))
        again = desk.publish()
        assert (again.digest, again.previous_digest) == (first.digest, None)
        assert len(desk.server.requests("POST", "/api/create")) == requests

    def test_a_model_that_is_the_same_by_chance_is_not_taken_for_ours(self, desk: Desk) -> None:
        desk.publish()
        desk.journal.unlink()
        with pytest.raises(RefusedError) as caught:
            desk.publish()
        assert caught.value.code == "name_taken"

    @pytest.mark.parametrize("step", range(1, STEPS + 1))
    def test_killed_at_any_step_a_repeat_completes_what_replaces_the_base_itself(
        self, desk: Desk, step: int
    ) -> None:
        old = desk.server.get("qwen2.5:3b")
        assert old is not None
        with Mortal(step) as process, pytest.raises(Killed):
            desk.publish(name="qwen2.5:3b", overwrite=True)
        assert process.steps == step
        result = desk.publish(name="qwen2.5:3b", overwrite=True)
        made = desk.server.get("qwen2.5:3b")
        assert made is not None
        assert made.adapters == [desk.request.file_sha256]
        assert (result.previous_digest, result.base_checked) == (old.digest, True)
        assert trials(desk) == []

    @pytest.mark.parametrize("taken", [True, False])
    @pytest.mark.parametrize("step", range(1, STEPS + 1))
    def test_killed_at_any_step_the_name_is_old_or_new_and_a_repeat_completes_it(
        self, desk: Desk, step: int, taken: bool
    ) -> None:
        old = desk.server.add("mine", "0" * 64) if taken else None
        with Mortal(step) as process, pytest.raises(Killed):
            desk.publish(overwrite=taken)
        assert process.steps == step
        now = desk.server.get("mine")
        assert now is old or (now is not None and now.adapters == [desk.request.file_sha256])

        result = desk.publish(overwrite=taken)

        made = desk.server.get("mine")
        assert made is not None
        assert made.adapters == [desk.request.file_sha256]
        assert result.previous_digest == (old.digest if old else None)
        assert trials(desk) == []

    def test_the_steps_above_are_all_that_there_are(self, desk: Desk) -> None:
        with Mortal(STEPS + 1) as process:
            desk.publish()
        assert process.steps == STEPS

    def test_a_trial_that_a_killed_attempt_left_is_deleted_by_the_next(self, desk: Desk) -> None:
        desk.server.fail("/api/delete", Fault.SERVER_ERROR)
        result = desk.publish(name="first")
        assert result.leftover in trials(desk)

        desk.server.faults.clear()
        assert desk.publish(name="second").leftover == ""
        assert trials(desk) == []
