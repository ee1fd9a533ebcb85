"""What a download would fetch is known, and agreed to, before anything is fetched."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from llamaforge import hardware
from llamaforge.catalog.hub_download import plan_download
from llamaforge.catalog.hub_http import Patience
from llamaforge.errors import ExitCode, LlamaForgeError, UsageError
from tests.contract.hub.fake_hub import COMMIT, OTHER_COMMIT, TOKEN, FakeHub, FakeRepo, Fault
from tests.contract.hub.hub_desk import (
    NAME,
    QUICK,
    fetch,
    in_shards,
    patience_for,
    plan,
    serve,
    single,
)
from tests.unit.hub.cache_builder import SMALL, shard_name


def refused(revision: str | None = None, patience: Patience = QUICK) -> LlamaForgeError:
    with pytest.raises(LlamaForgeError) as caught:
        plan_download(NAME, revision=revision, patience=patience)
    return caught.value


def test_one_request_tells_everything(hub: FakeHub, tmp_path: Path) -> None:
    files = single()
    serve(hub, files, cardData={"license": "apache-2.0"}, gated="auto")

    found = plan()

    assert [seen.method for seen in hub.seen] == ["GET"]
    assert (found.revision, found.ref) == (COMMIT, "main")
    assert found.total_bytes == found.fetch_bytes == sum(map(len, files.values()))
    assert (found.license, found.gated) == ("apache-2.0", "auto")
    assert found.page == f"{hub.url}/{NAME}"
    assert 0 < found.free_bytes <= hardware.free_disk_bytes(tmp_path) + 100_000_000
    assert not Path(constants.HF_HUB_CACHE).exists()


def test_only_what_a_base_needs_is_fetched(hub: FakeHub) -> None:
    needed = in_shards() | {
        "generation_config.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "LICENSE": b"MIT",
        "merges.txt": b"a b",
    }
    others = {
        "pytorch_model.bin": b"pickle",
        "modeling_tiny.py": b"import os",
        "README.md": b"#",
        "model.fp16.safetensors": b"",
        "consolidated.safetensors": b"",
        "model-q4_k_m.gguf": b"",
        "onnx/model.onnx": b"",
        "../config.json": b"{}",
        "/etc/config.json": b"{}",
        "sub/model.safetensors": b"",
        ".gitattributes": b"",
    }
    serve(hub, needed | others)

    assert {file.name for file in plan().files} == needed.keys()


def test_descriptions_come_before_the_weights(hub: FakeHub) -> None:
    serve(hub, in_shards())

    names = [file.name for file in plan().files]

    assert names[-3:] == [shard_name(number, 3) for number in (1, 2, 3)]


def test_of_one_file_and_shards_the_one_file_is_fetched(hub: FakeHub) -> None:
    serve(hub, in_shards() | single())

    assert {file.name for file in plan().files} == single().keys()


def test_what_the_cache_has_is_not_fetched_again(hub: FakeHub) -> None:
    files = single()
    repo = serve(hub, files)
    fetch()
    repo.files = files | {"generation_config.json": b"{}" * 50}
    repo.commit = OTHER_COMMIT

    found = plan()

    assert found.fetch_bytes == 100
    assert found.total_bytes == sum(map(len, files.values())) + 100


def test_a_commit_is_its_own_reference(hub: FakeHub) -> None:
    serve(hub, single())

    assert plan_download(NAME, revision=COMMIT, patience=QUICK).ref is None


@pytest.mark.parametrize(
    ("card", "license_name"),
    [
        ({}, None),
        ({"license": "mit"}, "mit"),
        ({"license": "other", "license_name": "qwen-research"}, "qwen-research"),
        ({"license": ["mit", "apache-2.0"]}, "mit, apache-2.0"),
        ({"license": "\x1b[31mred"}, "\\x1b[31mred"),
        ({"license": 5}, None),
    ],
)
def test_the_license_is_told_as_its_makers_name_it(
    hub: FakeHub, card: dict[str, object], license_name: str | None
) -> None:
    serve(hub, single(), cardData=card)

    assert plan().license == license_name


@pytest.mark.parametrize(
    "about",
    [
        {"config": {"auto_map": {"AutoModelForCausalLM": "modeling_tiny.Tiny"}}},
        {"tags": ["safetensors", "custom_code"]},
    ],
)
def test_a_base_with_code_of_its_own_is_refused(hub: FakeHub, about: dict[str, object]) -> None:
    serve(hub, single(), **about)

    error = refused()

    assert (error.code, error.exit_code) == ("remote_code", ExitCode.REFUSED)


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        ("model.safetensors", "pickled_weights"),
        ("config.json", "no_config"),
        ("tokenizer.json", "no_tokenizer"),
    ],
)
def test_a_repository_that_is_no_base_is_refused(hub: FakeHub, gone: str, code: str) -> None:
    files = single() | {"pytorch_model.bin": b"pickle"}
    del files[gone]
    serve(hub, files)

    error = refused()

    assert (error.code, error.exit_code) == (code, ExitCode.REFUSED)


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "maker/\x1b[31m", "a--b", "/etc", "C:\\x"])
def test_what_is_no_name_is_never_asked_for(hub: FakeHub, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_download(name)

    assert caught.value.code == "repo_name"
    assert "\x1b" not in caught.value.message
    assert hub.seen == []


def test_what_is_no_revision_is_never_asked_for(hub: FakeHub) -> None:
    assert refused(revision="../../secrets").code == "revision_name"
    assert hub.seen == []


def test_a_repository_that_is_not_there_is_named(hub: FakeHub) -> None:
    error = refused()

    assert (error.code, error.exit_code) == ("hub_not_found", ExitCode.NOT_FOUND)
    assert NAME in error.message


def test_a_revision_that_is_not_there_is_named(hub: FakeHub) -> None:
    serve(hub, single())

    error = refused(revision="v9")

    assert (error.code, error.exit_code) == ("hub_no_revision", ExitCode.NOT_FOUND)
    assert "v9" in error.message


def test_a_private_repository_opens_with_the_users_token(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single()).private = True
    assert refused().code == "hub_not_found"

    monkeypatch.setenv("HF_TOKEN", TOKEN)

    assert plan().revision == COMMIT


def test_a_token_from_the_file_of_hf_auth_login_is_used(hub: FakeHub, tmp_path: Path) -> None:
    serve(hub, single()).private = True
    (tmp_path / "token").write_text(TOKEN + "\n")

    assert plan().revision == COMMIT


def test_a_token_that_may_not_be_sent_unasked_is_not_sent(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)

    plan()

    assert "authorization" not in hub.seen[0].headers


@pytest.mark.parametrize("token", ["hf_" + "x" * 30, "hf_" + "é" * 30])
def test_a_wrong_token_is_told_and_not_shown(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    serve(hub, single())
    monkeypatch.setenv("HF_TOKEN", token)

    error = refused()

    assert error.code == "hub_token"
    assert "hf auth login" in error.hint
    assert token not in error.message + error.hint


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(403, {"X-Error-Code": "GatedRepo"}), "hub_gated"),
        (Fault(401, {"X-Error-Code": "GatedRepo"}), "hub_gated"),
        (Fault(403, {"X-Error-Message": "blocked"}), "hub_forbidden"),
        (Fault(429), "hub_rate_limited"),
        (Fault(500), "hub_failed"),
        (Fault(503), "hub_failed"),
        (Fault(418), "hub_failed"),
        (Fault(hang=True), "hub_timeout"),
        (Fault(drip=True), "hub_timeout"),
        (Fault(cut_after=20), "hub_offline"),
        (Fault(body=b"<html>Log in to the airport</html>"), "hub_answer"),
        (Fault(body=b"[]"), "hub_answer"),
        (Fault(body=b"{}"), "hub_answer"),
        (Fault(body=b"[" * 100_000), "hub_answer"),
        (Fault(body=b'{"sha": "../../x", "siblings": []}'), "hub_answer"),
        (Fault(headers={"Content-Encoding": "gzip"}), "hub_answer"),
        (Fault(301, {"Location": "ftp://elsewhere/"}), "hub_answer"),
        (Fault(301, {"Location": "/api/models/maker/tiny"}, times=-1), "hub_answer"),
    ],
)
def test_every_failure_of_the_hub_has_its_own_words(hub: FakeHub, fault: Fault, code: str) -> None:
    serve(hub, single())
    hub.faults["about"] = [fault]

    error = refused(patience=patience_for(fault))

    assert error.code == code
    assert error.hint


@pytest.mark.parametrize("headers", [{"Retry-After": "17"}, {"RateLimit": '"api";r=0;t=17'}])
def test_how_long_to_wait_is_told(hub: FakeHub, headers: dict[str, str]) -> None:
    serve(hub, single())
    hub.faults["about"] = [Fault(429, headers)]

    assert "17 s" in refused().hint


def test_the_page_to_ask_for_access_is_named(hub: FakeHub) -> None:
    serve(hub, single())
    hub.faults["about"] = [Fault(403, {"X-Error-Code": "GatedRepo"})]

    assert f"{hub.url}/{NAME}" in refused().hint


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"size": -1},
        {"blobId": "../../../etc/passwd"},
        {"blobId": None},
        {"lfs": {"sha256": "/" * 64, "size": 5}},
        {"lfs": {"sha256": "a" * 64, "size": 1 << 60}},
    ],
)
def test_a_file_without_size_and_digest_is_not_fetched(
    hub: FakeHub, change: dict[str, object]
) -> None:
    repo = FakeRepo(SMALL | single())
    siblings = [
        entry | (change if entry["rfilename"] == "config.json" else {}) for entry in repo.siblings()
    ]
    repo.about = {"siblings": siblings}
    hub.repos[NAME] = repo

    assert refused().code == "hub_answer"


def test_offline_no_request_is_made(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(hub, single())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    error = refused()

    assert error.code == "hub_offline"
    assert "HF_HUB_OFFLINE" in error.message
    assert hub.seen == []


def test_no_server_is_told_as_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    assert refused().code == "hub_offline"


@pytest.mark.parametrize("address", ["not an address", "ftp://127.0.0.1", "http://[::1", ""])
def test_an_endpoint_that_is_none_is_told(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)

    assert refused().code == "hub_answer"


@pytest.mark.parametrize(
    ("variable", "address"),
    [("ALL_PROXY", "socks5://me:secret-word@127.0.0.1:9"), ("HTTP_PROXY", "odd://x:secret-word@y")],
)
def test_a_proxy_that_cannot_be_used_is_told(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    monkeypatch.setenv(variable, address)

    error = refused()

    assert error.code == "hub_proxy"
    assert "secret-word" not in error.message


def test_the_proxy_of_the_environment_is_used(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single())
    monkeypatch.setenv("HTTP_PROXY", hub.store_url)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")

    assert refused().code == "hub_not_found"

    assert [seen.at_store for seen in hub.seen] == [True]
    assert hub.seen[0].path.startswith("http://hub.invalid/api/models/")


def test_credentials_in_the_endpoint_are_not_shown(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret-word@127.0.0.1:9")

    error = refused()

    assert "secret-word" not in error.message + error.hint
