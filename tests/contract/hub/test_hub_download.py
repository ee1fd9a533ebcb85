"""A base fetched from the Hub lies in the cache as the Hugging Face libraries would have put it."""

import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pytest
from huggingface_hub import (
    close_session,
    constants,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)

from llamaforge.catalog.hub_cache import cache_of
from llamaforge.catalog.hub_download import (
    Progress,
    download,
    plan_download,
    refuse_remote_code,
)
from llamaforge.errors import ExitCode, LlamaForgeError
from tests.contract.hub.fake_hub import COMMIT, OTHER_COMMIT, TOKEN, FakeHub, Fault
from tests.contract.hub.hub_desk import (
    NAME,
    QUICK,
    contents,
    fetch,
    in_shards,
    parts,
    plan,
    serve,
    single,
)
from tests.unit.hub.cache_builder import SMALL, shard_name


def cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return what changes when anything in `folder` is written or replaced."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in found.items()}


def failed() -> LlamaForgeError:
    with pytest.raises(LlamaForgeError) as caught:
        fetch()
    return caught.value


@pytest.mark.parametrize("files", [single(), in_shards()], ids=["single", "shards"])
def test_every_file_arrives_and_the_base_is_complete(hub: FakeHub, files: dict[str, bytes]) -> None:
    serve(hub, files | {"README.md": b"#", "modeling.py": b"import os"})

    folder = fetch()

    assert contents(folder) == files
    found = cache_of(NAME)
    assert (found.state, found.path, found.revision) == ("complete", folder, COMMIT)
    assert parts(cache()) == []


def test_the_real_client_uses_what_was_fetched_without_asking(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, in_shards())
    folder = fetch()
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert snapshot_download(NAME, local_files_only=True) == str(folder)
    assert hf_hub_download(NAME, "config.json") == str(folder / "config.json")
    assert hub.seen == []
    scanned = scan_cache_dir(cache())
    (repo,) = scanned.repos
    assert not scanned.warnings
    assert (repo.repo_id, repo.size_on_disk) == (NAME, cache_of(NAME).bytes)
    assert [(revision.commit_hash, revision.refs) for revision in repo.revisions] == [
        (COMMIT, frozenset({"main"}))
    ]


def test_what_the_real_client_has_fetched_is_complete_and_not_fetched_again(hub: FakeHub) -> None:
    serve(hub, in_shards())
    folder = Path(snapshot_download(NAME))

    found = cache_of(NAME)
    assert (found.state, found.path) == ("complete", folder)
    assert plan().fetch_bytes == 0

    hub.seen.clear()
    assert fetch() == folder
    assert hub.asked("resolve") == []


def test_what_the_real_client_left_half_done_is_told_and_completed(hub: FakeHub) -> None:
    files = in_shards()
    serve(hub, files)
    snapshot_download(NAME, allow_patterns=["*.json", shard_name(1, 3)])

    found = cache_of(NAME)

    assert found.missing == (shard_name(2, 3), shard_name(3, 3))
    # The client keeps the list of the commit's files, so the bytes are exact.
    assert found.missing_bytes == sum(len(files[name]) for name in found.missing)
    assert plan().fetch_bytes == found.missing_bytes
    fetch()
    assert cache_of(NAME).state == "complete"


def test_single_files_of_the_real_client_are_told_by_the_index(hub: FakeHub) -> None:
    serve(hub, in_shards())
    for name in (*SMALL, "model.safetensors.index.json", shard_name(2, 3)):
        hf_hub_download(NAME, name)

    found = cache_of(NAME)

    assert found.missing == (shard_name(1, 3), shard_name(3, 3))
    assert found.missing_bytes == 250_000


def test_a_second_download_fetches_and_writes_nothing(hub: FakeHub) -> None:
    serve(hub, single())
    fetch()
    shutil.rmtree(cache() / ".locks")
    before = written(cache())
    hub.seen.clear()

    fetch()

    assert hub.asked("resolve") == []
    assert written(cache()) == before


def test_progress_is_told_in_bytes_and_ends_at_the_whole(hub: FakeHub) -> None:
    files = in_shards()
    serve(hub, files)
    told: list[Progress] = []

    fetch(told)

    done = [progress.done_bytes for progress in told]
    total = sum(map(len, files.values()))
    assert done == sorted(done)
    assert done[-1] == total
    assert {progress.total_bytes for progress in told} == {total}
    assert {progress.name for progress in told} == files.keys()


def test_what_the_cache_had_counts_as_done(hub: FakeHub) -> None:
    files = single()
    serve(hub, files)
    hf_hub_download(NAME, "model.safetensors")
    told: list[Progress] = []

    fetch(told)

    assert told[0].done_bytes >= len(files["model.safetensors"])


def test_a_stop_keeps_what_came_and_the_next_download_goes_on_from_it(hub: FakeHub) -> None:
    files = single(4_000_000)
    serve(hub, files)
    hub.faults["model.safetensors"] = [Fault(cut_after=2_000_000)]

    def stopped() -> bool:
        return any(part.stat().st_size > 1_000_000 for part in parts(cache()))

    with pytest.raises(LlamaForgeError) as caught:
        download(plan(), lambda _: None, stopped, patience=QUICK)

    assert (caught.value.code, caught.value.exit_code) == ("stopped", ExitCode.INTERRUPTED)
    (part,) = parts(cache())
    had = part.stat().st_size
    assert 1_000_000 < had <= 2_000_000
    assert cache_of(NAME).state == "partial"
    assert plan().fetch_bytes == len(files["model.safetensors"]) - had

    hub.seen.clear()
    folder = fetch()

    assert hub.asked("model.safetensors")[0].headers["range"] == f"bytes={had}-"
    assert contents(folder) == files


def test_a_stop_in_the_middle_of_an_answer_is_obeyed_there(hub: FakeHub) -> None:
    files = single(4_000_000)
    serve(hub, files)

    def stopped() -> bool:
        return any(part.stat().st_size > 1_000_000 for part in parts(cache()))

    with pytest.raises(LlamaForgeError) as caught:
        download(plan(), lambda _: None, stopped, patience=QUICK)

    assert caught.value.code == "stopped"
    (part,) = parts(cache())
    assert part.stat().st_size < 2_000_000


def test_a_stop_before_the_first_byte_fetches_nothing(hub: FakeHub) -> None:
    serve(hub, single())

    with pytest.raises(LlamaForgeError) as caught:
        download(plan(), lambda _: None, lambda: True, patience=QUICK)

    assert caught.value.code == "stopped"
    assert hub.asked("resolve") == []


def test_the_branch_moves_only_when_everything_is_there(hub: FakeHub) -> None:
    repo = serve(hub, single())
    fetch()
    repo.files = single(500_000)
    repo.commit = OTHER_COMMIT
    hub.faults["model.safetensors"] = [Fault(cut_after=0, times=-1)]

    assert failed().code == "hub_offline"
    assert cache_of(NAME).revision == COMMIT
    assert snapshot_download(NAME, local_files_only=True).endswith(COMMIT)

    hub.faults.clear()
    fetch()
    assert cache_of(NAME).revision == OTHER_COMMIT


def test_the_token_goes_to_the_hub_and_not_to_the_store(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single()).gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    fetch()

    at_hub = [seen for seen in hub.seen if not seen.at_store]
    at_store = [seen for seen in hub.seen if seen.at_store]
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in at_hub)
    assert at_store
    assert all("authorization" not in seen.headers for seen in at_store)


def test_a_gated_base_without_access_names_the_page_and_fetches_nothing(hub: FakeHub) -> None:
    serve(hub, single(), gated="manual").gated = True

    error = failed()

    assert error.code == "hub_gated"
    assert f"{hub.url}/{NAME}" in error.hint
    assert cache_of(NAME).state == "absent"


def test_no_room_is_told_before_anything_is_fetched(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single())
    agreed = plan()
    hub.seen.clear()
    monkeypatch.setattr("llamaforge.hardware.free_disk_bytes", lambda _: agreed.fetch_bytes - 1)

    with pytest.raises(LlamaForgeError) as caught:
        download(agreed, lambda _: None, lambda: False, patience=QUICK)

    assert (caught.value.code, caught.value.exit_code) == ("no_disk_space", ExitCode.REFUSED)
    assert "300 KB" in caught.value.message
    assert hub.seen == []


def limited_download(limit_bytes: int, answers: "multiprocessing.Queue[tuple[str, str]]") -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    close_session()
    try:
        fetch()
    except LlamaForgeError as error:
        answers.put((error.code, error.message))
    else:
        answers.put(("none", ""))


def test_a_disk_that_fills_up_keeps_what_came(hub: FakeHub) -> None:
    files = single(3_000_000)
    serve(hub, files)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[str, str]] = context.Queue()
    process = context.Process(target=limited_download, args=(1_500_000, answers))
    process.start()
    code, message = answers.get(timeout=30)
    process.join()

    assert code == "disk_full"
    assert "1.5 MB are still to come" in message
    (part,) = parts(cache())
    assert part.stat().st_size == 1_500_000
    assert contents(fetch()) == files


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_cache_that_may_not_be_written_is_told(hub: FakeHub) -> None:
    serve(hub, single())
    cache().mkdir()
    cache().chmod(0o500)

    assert failed().code == "hub_cache"


def test_a_cache_that_is_a_file_is_told(hub: FakeHub) -> None:
    serve(hub, single())
    agreed = plan()
    cache().write_text("")

    with pytest.raises(LlamaForgeError) as caught:
        download(agreed, lambda _: None, lambda: False, patience=QUICK)

    assert caught.value.code == "hub_cache"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_named_in_a_fetched_configuration_ends_it_before_the_weights(
    hub: FakeHub, name: str
) -> None:
    content = json.dumps({"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}).encode()
    serve(hub, single() | {name: content})

    error = failed()

    assert (error.code, error.exit_code) == ("remote_code", ExitCode.REFUSED)
    assert hub.asked("model.safetensors") == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000])
def test_a_configuration_that_is_none_ends_it_before_the_weights(
    hub: FakeHub, content: bytes
) -> None:
    serve(hub, single() | {"config.json": content})

    assert failed().code == "no_config"
    assert hub.asked("model.safetensors") == []


def test_an_index_of_other_shards_ends_it_before_the_weights(hub: FakeHub) -> None:
    files = in_shards()
    del files[shard_name(2, 3)]
    serve(hub, files)

    assert failed().code == "no_safetensors"
    assert hub.asked(shard_name(1, 3)) == []


def test_weights_that_are_no_safetensors_are_not_offered(hub: FakeHub) -> None:
    serve(hub, SMALL | {"model.safetensors": b"\x80\x04pickle"})

    assert failed().code == "no_safetensors"
    assert not (cache() / "models--maker--tiny" / "refs").exists()


def test_a_base_without_a_configuration_of_its_tokenizer_is_complete(hub: FakeHub) -> None:
    files = single()
    del files["tokenizer_config.json"]
    serve(hub, files)

    fetch()

    assert cache_of(NAME).state == "complete"


def test_without_links_the_files_themselves_lie_in_the_snapshot(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = in_shards()
    serve(hub, files)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)

    folder = fetch()

    assert contents(folder) == files
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert cache_of(NAME).state == "complete"
    assert plan().fetch_bytes == 0
    hub.seen.clear()
    assert fetch() == folder
    assert hub.asked("resolve") == []


def test_a_blob_of_another_revision_is_used_and_kept(hub: FakeHub) -> None:
    files = single()
    repo = serve(hub, files)
    fetch()
    repo.commit = OTHER_COMMIT
    hub.seen.clear()

    folder = fetch()

    assert contents(folder) == files
    assert hub.asked("resolve") == []
    assert cache_of(NAME, revision=COMMIT).state == "complete"


def test_a_blob_of_the_wrong_size_is_fetched_again(hub: FakeHub) -> None:
    files = single()
    serve(hub, files)
    folder = fetch()
    (folder / "model.safetensors").resolve().write_bytes(b"cut")

    assert cache_of(NAME).missing == ("model.safetensors",)
    assert contents(fetch()) == files


@pytest.mark.parametrize("links", [True, False])
def test_two_downloads_at_once_fetch_every_file_once(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    files = in_shards()
    serve(hub, files)
    agreed = plan()
    hub.seen.clear()
    folders: list[Path] = []

    def run() -> None:
        folders.append(download(agreed, lambda _: None, lambda: False, patience=QUICK))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(folders) == 2
    assert contents(folders[0]) == files
    assert len([seen for seen in hub.seen if seen.at_store]) == 3


def test_offline_nothing_is_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(hub, single())
    agreed = plan()
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(LlamaForgeError) as caught:
        download(agreed, lambda _: None, lambda: False)

    assert caught.value.code == "hub_offline"
    assert hub.seen == []


def test_a_folder_with_a_known_model_needs_no_code(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    refuse_remote_code("mine", tmp_path)


def test_a_commit_asked_for_moves_no_branch(hub: FakeHub) -> None:
    serve(hub, single())

    download(
        plan_download(NAME, revision=COMMIT, patience=QUICK),
        lambda _: None,
        lambda: False,
        patience=QUICK,
    )

    assert not (cache() / "models--maker--tiny" / "refs").exists()
    assert cache_of(NAME).state == "complete"
