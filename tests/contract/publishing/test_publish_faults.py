"""Whatever the server does, it ends in bounded time, in words, and with the old model in place."""

import socket
import time

import pytest

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.publishing.journal import read_journal
from llamaforge.publishing.server import Limits
from tests.contract.publishing.fake_ollama import FakeOllama, Fault
from tests.contract.publishing.publishing_desk import PATIENT, QUICK, Desk

ENDPOINTS = ["/api/version", "/api/tags", "/api/show", "/api/blobs/", "/api/create", "/api/chat"]
EVERYWHERE = [
    Fault.HANG,
    Fault.DRIP,
    Fault.SERVER_ERROR,
    Fault.GARBAGE,
    Fault.WRONG_SHAPE,
    Fault.CUT_BEFORE,
    Fault.REDIRECT,
]
BODILESS = {Fault.GARBAGE, Fault.WRONG_SHAPE, Fault.DRIP}
"""What a HEAD request cannot show: it has only a status."""
PLACES = [
    (path, fault)
    for path in ENDPOINTS
    for fault in EVERYWHERE
    if not (path == "/api/blobs/" and fault in BODILESS)
]


def limits_for(fault: Fault) -> Limits:
    return QUICK if fault in {Fault.HANG, Fault.DRIP} else PATIENT


def assert_safe(error: LlamaForgeError) -> None:
    for text in (error.message, error.hint):
        assert all(char.isprintable() for char in text)
        assert "hf_abc" not in text


@pytest.mark.parametrize(("path", "fault"), PLACES)
def test_a_fault_at_any_question_leaves_the_old_model(desk: Desk, path: str, fault: Fault) -> None:
    old = desk.server.add("mine", "0" * 64)
    desk.server.fail(path, fault)
    started = time.monotonic()
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish(limits_for(fault), overwrite=True)
    assert time.monotonic() - started < 8
    assert caught.value.hint
    assert_safe(caught.value)
    assert desk.server.get("mine") is old
    assert not desk.server.requests("GET", "/elsewhere")


@pytest.mark.parametrize("fault", EVERYWHERE)
def test_a_fault_at_the_last_step_leaves_the_old_model(desk: Desk, fault: Fault) -> None:
    old = desk.server.add("mine", "0" * 64)
    desk.server.fail("/api/create", fault, skip=1)
    with pytest.raises(LlamaForgeError):
        desk.publish(limits_for(fault), overwrite=True)
    assert desk.server.get("mine") is old
    assert list(desk.server.models) == ["qwen2.5:3b", "mine:latest"]
    last = [entry for entry in read_journal(desk.journal) if entry["change"] == "publish"][-1]
    assert last["phase"] == "failed"


def test_an_answer_that_was_cut_is_settled_by_what_the_server_has(desk: Desk) -> None:
    desk.server.fail("/api/create", Fault.CUT)
    result = desk.publish()

    made = desk.server.get("mine")
    assert made is not None
    assert result.digest == made.digest
    acts = [entry for entry in read_journal(desk.journal) if entry["phase"] == "act"]
    assert [entry["answer"] for entry in acts if entry["change"] == "publish"] == ["server_cut"]
    assert len(desk.server.requests("POST", "/api/create")) == 2  # trial and name, each once


def test_a_stream_without_success_is_settled_by_what_the_server_has(desk: Desk) -> None:
    desk.server.fail("/api/create", Fault.NO_SUCCESS)
    assert desk.publish().digest
    assert desk.server.get("mine") is not None


def test_a_success_without_a_model_is_a_failure(desk: Desk) -> None:
    desk.server.fail("/api/create", Fault.NOT_STORED)
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish()
    assert caught.value.code == "not_there"
    assert desk.server.get("mine") is None


def test_a_success_that_changed_nothing_is_a_failure(desk: Desk) -> None:
    old = desk.server.add("mine", "0" * 64, adapters=["2" * 64])
    desk.server.fail("/api/create", Fault.NOT_STORED, skip=1)
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish(overwrite=True)
    assert caught.value.code == "not_there"
    assert desk.server.get("mine") is old


def test_an_error_inside_a_stream_is_a_failure_and_quoted_safely(desk: Desk) -> None:
    desk.server.fail("/api/create", Fault.ERROR_LINE)
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish()
    assert caught.value.code == "server_error"
    assert "only one adapter \\x9b2J is supported" in caught.value.message
    assert desk.server.get("mine") is None


def test_an_upload_that_was_not_kept_is_a_failure(desk: Desk) -> None:
    desk.server.fail("/api/blobs/", Fault.NOT_STORED)
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish()
    assert caught.value.code == "upload_lost"


def test_an_upload_whose_answer_was_cut_counts_if_the_blob_is_there(desk: Desk) -> None:
    desk.server.fail("/api/blobs/", Fault.CUT, skip=1)  # the first request is the HEAD
    desk.publish()
    assert len(desk.server.requests("POST", "/api/blobs/")) == 1
    assert desk.server.get("mine") is not None


def test_a_model_that_does_not_load_is_not_published(desk: Desk) -> None:
    old = desk.server.add("mine", "0" * 64)
    desk.server.fail("/api/chat", Fault.LOAD_FAILURE)
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish(overwrite=True)
    assert caught.value.code == "smoke_test"
    assert "llama-server process has terminated: exit status 1: \\x1b]0;" in caught.value.message
    assert "log" in caught.value.hint
    assert_safe(caught.value)
    assert desk.server.get("mine") is old
    assert list(desk.server.models) == ["qwen2.5:3b", "mine:latest"]


@pytest.mark.parametrize("path", ["/api/version", "/api/tags", "/api/show"])
def test_a_question_that_changes_nothing_is_put_again(desk: Desk, path: str) -> None:
    once = True

    def stumble(seen: object) -> None:
        nonlocal once
        if once and getattr(seen, "path", "") == path:
            desk.server.fail(path, Fault.CUT_BEFORE)
            once = False
        else:
            desk.server.faults.clear()

    desk.server.before = stumble
    desk.publish()
    assert not once


@pytest.mark.parametrize("path", ["/api/create", "/api/chat", "/api/blobs/"])
def test_a_request_that_changes_something_is_never_sent_twice(desk: Desk, path: str) -> None:
    desk.server.fail(path, Fault.CUT_BEFORE, skip=1 if path == "/api/blobs/" else 0)
    with pytest.raises(LlamaForgeError):
        desk.publish()
    assert len(desk.server.requests("POST", path)) == 1


def test_no_server_is_told_apart_and_leaves_no_journal(desk: Desk) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(RefusedError) as caught:
        desk.publish(host=url)
    assert caught.value.code == "no_server"
    assert caught.value.exit_code == ExitCode.REFUSED
    assert "ollama serve" in caught.value.hint
    assert not desk.journal.exists()


@pytest.mark.parametrize("version", ["", "latest", "9" * 400, "0.30.0\x1b[2J"])
def test_a_version_that_is_none_is_shown_safely(desk: Desk, version: str) -> None:
    desk.server.version = version
    with pytest.raises(LlamaForgeError) as caught:
        desk.publish()
    assert caught.value.code == "bad_answer"
    assert_safe(caught.value)


def test_a_server_that_hangs_is_named(desk: Desk) -> None:
    with FakeOllama() as other:
        other.models = dict(desk.server.models)
        other.fail("/api/create", Fault.HANG)
        with pytest.raises(LlamaForgeError) as caught:
            desk.publish(host=other.url, limits=QUICK)
    assert caught.value.code == "server_timeout"
    assert other.url in caught.value.message


def test_the_environment_s_proxy_is_not_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert desk.publish().digest
