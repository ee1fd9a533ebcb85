"""What is there of a base in the Hub cache, read from its files alone."""

import os
import time
from pathlib import Path

import pytest

from llamaforge.catalog.hub_cache import Cache, cache_of
from tests.unit.hub.cache_builder import (
    FIRST,
    REPO,
    SECOND,
    SMALL,
    TOKENIZER,
    RepoBuilder,
    shard_name,
    sharded,
    weights,
    whole,
)

INDEX = "model.safetensors.index.json"


def size_of(files: dict[str, bytes]) -> int:
    """Return the size of the contents, each once."""
    return sum(map(len, set(files.values())))


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in names}


def test_nothing_is_there_of_a_repository_that_was_never_fetched(hub_cache: Path) -> None:
    assert cache_of(REPO) == Cache("absent", 0, None, (), None, None)
    assert not hub_cache.exists()


def test_a_base_in_one_file_of_weights_is_complete(repo: RepoBuilder) -> None:
    folder = repo.commit(FIRST, whole(), ref="main")

    assert cache_of(REPO) == Cache("complete", size_of(whole()), 0, (), FIRST, folder)


def test_a_base_in_shards_is_complete_when_all_of_the_index_are_there(repo: RepoBuilder) -> None:
    files = SMALL | sharded(100, 200, 300)
    repo.commit(FIRST, files, ref="main")

    found = cache_of(REPO)

    assert found.state == "complete"
    assert found.bytes == size_of(files)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_base_without_one_of_its_descriptions_is_partial(repo: RepoBuilder, name: str) -> None:
    files = without(whole(), name)
    repo.commit(FIRST, files, ref="main")

    found = cache_of(REPO)

    assert (found.state, found.missing, found.missing_bytes) == ("partial", (name,), None)


def test_a_tokenizer_config_that_the_repository_never_had_is_not_missed(repo: RepoBuilder) -> None:
    repo.commit(FIRST, without(whole(), "tokenizer_config.json"), ref="main")
    repo.absent(FIRST, "tokenizer_config.json")

    assert cache_of(REPO).state == "complete"


@pytest.mark.parametrize(
    ("vocabulary", "state"),
    [
        (["tokenizer.model"], "complete"),
        (["vocab.txt"], "complete"),
        (["vocab.json", "merges.txt"], "complete"),
        (["tekken.json"], "complete"),
        (["vocab.json"], "partial"),
        (["merges.txt", "added_tokens.json"], "partial"),
    ],
)
def test_every_kind_of_vocabulary_is_known(
    repo: RepoBuilder, vocabulary: list[str], state: str
) -> None:
    files = without(whole(), "tokenizer.json") | dict.fromkeys(vocabulary, b"words")
    repo.commit(FIRST, files, ref="main")

    assert cache_of(REPO).state == state


def test_missing_shards_are_named_and_their_bytes_taken_from_the_index(repo: RepoBuilder) -> None:
    files = without(SMALL | sharded(100, 200, 300), shard_name(2, 3), shard_name(3, 3))
    repo.commit(FIRST, files, ref="main")

    found = cache_of(REPO)

    assert found.state == "partial"
    assert found.missing == (shard_name(2, 3), shard_name(3, 3))
    assert found.missing_bytes == 500
    assert found.bytes == size_of(files)


@pytest.mark.parametrize("cut", [1, 900, 1050])
def test_weights_that_were_cut_short_are_missing(repo: RepoBuilder, cut: int) -> None:
    content = weights(1000)
    repo.commit(FIRST, SMALL | {"model.safetensors": content[:-cut]}, ref="main")

    found = cache_of(REPO)

    assert (found.state, found.missing) == ("partial", ("model.safetensors",))
    assert found.missing_bytes in {len(content), None}


def test_weights_with_bytes_behind_their_end_are_missing(repo: RepoBuilder) -> None:
    repo.commit(FIRST, SMALL | {"model.safetensors": weights(1000) + b"x"}, ref="main")

    assert cache_of(REPO).missing == ("model.safetensors",)


def test_a_shard_of_the_wrong_size_counts_in_full_as_missing(repo: RepoBuilder) -> None:
    files = SMALL | sharded(100, 200)
    files[shard_name(2, 2)] = files[shard_name(2, 2)][:-1]
    repo.commit(FIRST, files, ref="main")

    found = cache_of(REPO)

    assert (found.missing, found.missing_bytes) == ((shard_name(2, 2),), 200)


def test_a_link_that_leads_nowhere_is_a_missing_file(repo: RepoBuilder) -> None:
    files = SMALL | sharded(100, 200)
    repo.commit(FIRST, files, ref="main")
    repo.blob(files[shard_name(1, 2)]).unlink()

    found = cache_of(REPO)

    assert (found.missing, found.missing_bytes) == ((shard_name(1, 2),), 100)


def test_links_in_a_circle_are_missing_files(repo: RepoBuilder) -> None:
    folder = repo.commit(FIRST, without(whole(), "config.json"), ref="main")
    (folder / "config.json").symlink_to("config.json")

    assert cache_of(REPO).missing == ("config.json",)


def test_a_pipe_in_place_of_weights_is_not_waited_for(repo: RepoBuilder) -> None:
    folder = repo.commit(FIRST, SMALL, ref="main")
    os.mkfifo(folder / "model.safetensors")

    assert cache_of(REPO).missing == ("model.safetensors",)


def test_a_pipe_in_place_of_a_reference_is_not_waited_for(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole())
    (repo.place / "refs").mkdir()
    os.mkfifo(repo.place / "refs" / "main")

    assert cache_of(REPO).revision == FIRST


def test_copies_instead_of_links_are_as_good(hub_cache: Path) -> None:
    RepoBuilder(hub_cache, links=False).commit(FIRST, SMALL | sharded(10, 20), ref="main")

    found = cache_of(REPO)

    assert found.state == "complete"
    assert not any(path.is_symlink() for path in hub_cache.rglob("*"))


def test_two_names_of_one_content_count_once(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole() | {"LICENSE": b"{}"}, ref="main")

    assert TOKENIZER["tokenizer.json"] == TOKENIZER["tokenizer_config.json"] == b"{}"
    assert cache_of(REPO).bytes == size_of(whole())


def test_main_is_preferred_to_a_newer_revision(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.commit(SECOND, whole(), ref="other")

    assert cache_of(REPO).revision == FIRST


def test_a_complete_revision_is_preferred_to_a_partial_main(repo: RepoBuilder) -> None:
    repo.commit(FIRST, SMALL, ref="main")
    repo.commit(SECOND, whole())

    assert cache_of(REPO).revision == SECOND


def test_of_partial_revisions_that_of_main_is_told(repo: RepoBuilder) -> None:
    repo.commit(FIRST, SMALL, ref="main")
    repo.commit(SECOND, SMALL)

    assert cache_of(REPO).revision == FIRST


def test_without_main_the_newest_complete_revision_is_taken(repo: RepoBuilder) -> None:
    for commit, age in ((FIRST, 100), (SECOND, 50)):
        folder = repo.commit(commit, whole())
        os.utime(folder, (time.time() - age, time.time() - age))

    assert cache_of(REPO).revision == SECOND


def test_files_of_two_revisions_do_not_make_one_complete_base(repo: RepoBuilder) -> None:
    repo.commit(FIRST, without(whole(), "config.json"), ref="main")
    repo.commit(SECOND, {"config.json": b"{}"})

    assert cache_of(REPO).state == "partial"


@pytest.mark.parametrize("revision", ["v2", "refs/pr/7", SECOND])
def test_a_revision_is_found_by_branch_reference_and_commit(
    repo: RepoBuilder, revision: str
) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.commit(SECOND, SMALL, ref="v2")
    repo.ref("refs/pr/7", SECOND)

    assert cache_of(REPO, revision=revision).revision == SECOND


@pytest.mark.parametrize("revision", ["v3", "../main", "", "c" * 40, "/etc/passwd", "a\0b"])
def test_a_revision_that_is_not_there_is_absent(repo: RepoBuilder, revision: str) -> None:
    repo.commit(FIRST, whole(), ref="main")

    assert cache_of(REPO, revision=revision).state == "absent"


@pytest.mark.parametrize("content", ["../../elsewhere", "", "A" * 40, FIRST + FIRST, "é" * 20])
def test_a_reference_that_is_no_commit_is_not_followed(repo: RepoBuilder, content: str) -> None:
    repo.commit(FIRST, whole())
    repo.ref("main", content)

    assert cache_of(REPO, revision="main").state == "absent"
    assert cache_of(REPO).revision == FIRST


def test_a_stored_listing_gives_names_and_bytes(repo: RepoBuilder) -> None:
    files = SMALL | sharded(1000, 2000) | {"chat_template.jinja": b"{{ x }}"}
    gone = (shard_name(2, 2), INDEX, "chat_template.jinja")
    repo.commit(FIRST, without(files, *gone), ref="main")
    repo.listing(FIRST, files | {"pytorch_model.bin": bytes(9000), "README.md": bytes(50)})

    found = cache_of(REPO)

    assert found.missing == tuple(sorted(gone))
    assert found.missing_bytes == sum(len(files[name]) for name in gone)


def test_a_part_to_go_on_from_is_not_fetched_again(repo: RepoBuilder) -> None:
    files = whole(5000)
    content = files["model.safetensors"]
    repo.commit(FIRST, SMALL, ref="main")
    repo.listing(FIRST, files)
    repo.unfinished(repo.blob(content).name, 3000)

    found = cache_of(REPO)

    assert found.missing_bytes == len(content) - 3000
    assert found.bytes == size_of(SMALL) + 3000


def test_a_listing_tells_a_file_of_the_wrong_size(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole() | {"tokenizer.json": b"{"}, ref="main")
    repo.listing(FIRST, whole())

    assert cache_of(REPO).missing == ("tokenizer.json",)


def test_extra_files_of_a_listing_are_not_missed(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.listing(FIRST, whole() | {"LICENSE": b"MIT", "generation_config.json": b"{}"})

    assert cache_of(REPO).state == "complete"


def test_weights_in_one_file_make_the_shards_of_a_listing_needless(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.listing(FIRST, whole() | sharded(500, 500))

    assert cache_of(REPO).state == "complete"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format_version": 2, "files": {}}', '{"format_version": 1}', "[" * 9999],
)
def test_a_listing_that_cannot_be_read_is_left_aside(repo: RepoBuilder, text: str) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.listing(FIRST, whole())
    (repo.place / "trees" / f"{FIRST}.json").write_text(text)

    assert cache_of(REPO).state == "complete"


def test_pickled_weights_are_counted_and_of_no_use(repo: RepoBuilder) -> None:
    files = SMALL | {"pytorch_model.bin": bytes(4000)}
    repo.commit(FIRST, files, ref="main")

    found = cache_of(REPO)

    assert found.state == "partial"
    assert found.unusable == ("pytorch_model.bin",)
    assert found.missing == ("model.safetensors",)
    assert found.bytes == size_of(files)


def test_a_repository_known_to_have_no_safetensors_cannot_be_completed(repo: RepoBuilder) -> None:
    files = SMALL | {"pytorch_model.bin": bytes(4000)}
    repo.commit(FIRST, files, ref="main")
    repo.listing(FIRST, files)

    found = cache_of(REPO)

    assert (found.state, found.missing) == ("partial", ("model.safetensors",))
    assert found.missing_bytes is None


def test_only_unfinished_blobs_are_a_partial_base(repo: RepoBuilder) -> None:
    repo.unfinished("e" * 64, 700)
    repo.unfinished(f"{'f' * 64}.0123abcd", 30)

    found = cache_of(REPO)

    assert (found.state, found.bytes, found.path) == ("partial", 730, None)


def test_an_old_unfinished_blob_does_not_spoil_a_complete_base(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.unfinished("e" * 64, 700)

    found = cache_of(REPO)

    assert (found.state, found.bytes) == ("complete", size_of(whole()))


def test_a_repository_of_other_files_holds_no_base(repo: RepoBuilder) -> None:
    repo.commit(FIRST, {"model-q4_k_m.gguf": b"GGUF", "README.md": b"#"}, ref="main")

    assert cache_of(REPO).state == "absent"


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": "../../../../etc/passwd"}}',
        b'{"weight_map": {"a": "/etc/shadow.safetensors"}}',
        b'{"weight_map": {"a": "x\\u0000.safetensors"}}',
        b'{"weight_map": {"a": "pytorch_model.bin"}}',
        b"[" * 100_000,
    ],
)
def test_an_index_that_is_none_is_missing(repo: RepoBuilder, index: bytes) -> None:
    repo.commit(FIRST, SMALL | {INDEX: index}, ref="main")

    found = cache_of(REPO)

    assert (found.state, found.missing) == ("partial", (INDEX,))


@pytest.mark.parametrize(
    "total", [b'"many"', b"-5", b"true", b"1e400", b"123456789012345678901234567890", b"1.5"]
)
def test_a_total_that_is_no_size_is_not_believed(repo: RepoBuilder, total: bytes) -> None:
    index = b'{"metadata": {"total_size": %s}, "weight_map": {"a": "%s"}}'
    repo.commit(FIRST, SMALL | {INDEX: index % (total, shard_name(1, 1).encode())}, ref="main")

    assert cache_of(REPO).missing_bytes is None


def test_a_total_written_as_a_float_is_a_size(repo: RepoBuilder) -> None:
    index = b'{"metadata": {"total_size": 512.0}, "weight_map": {"a": "%s"}}'
    repo.commit(FIRST, SMALL | {INDEX: index % shard_name(1, 1).encode()}, ref="main")

    assert cache_of(REPO).missing_bytes == 512


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (7).to_bytes(8, "little") + b'{"a":1}',
        (32).to_bytes(8, "little") + b'{"a":{"data_offsets":[0,"many"]}',
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_weights_with_an_unsound_header_are_missing(repo: RepoBuilder, content: bytes) -> None:
    repo.commit(FIRST, SMALL | {"model.safetensors": content}, ref="main")

    found = cache_of(REPO)

    assert (found.missing, found.missing_bytes) == (("model.safetensors",), None)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b/c",
        "../models",
        "maker/..",
        "maker--tiny",
        "maker/tiny\n",
        "maker/\x1b[31m",
        "a" * 200,
        "maker/\0",
        "\0",
        "https://huggingface.co/maker/tiny",
    ],
)
def test_what_is_no_name_is_absent(repo: RepoBuilder, name: str) -> None:
    repo.commit(FIRST, whole(), ref="main")

    assert cache_of(name).state == "absent"


def test_a_folder_of_ones_own_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in without(whole(), "tokenizer_config.json").items():
        (folder / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    for spelling in (str(folder), "./mine", "../" + tmp_path.name + "/mine", "~/mine"):
        found = cache_of(spelling)
        assert (found.state, found.revision) == ("complete", None)
        assert found.path is not None
        assert found.path.samefile(folder)


def test_a_folder_that_misses_something_is_partial(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")

    found = cache_of(str(tmp_path))

    assert found.state == "partial"
    assert found.missing == ("model.safetensors", "tokenizer.json")


@pytest.mark.parametrize("spelling", ["~nobody-of-this-name/x", "./nothing", "/", "~"])
def test_a_folder_without_a_base_is_absent(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_of(spelling).state == "absent"


def test_a_thousand_repositories_are_looked_up_in_a_second(hub_cache: Path) -> None:
    names = [f"maker/model-{number}" for number in range(1000)]
    for name in names:
        RepoBuilder(hub_cache, name).commit(FIRST, whole(10), ref="main")

    begin = time.perf_counter()
    states = [cache_of(name).state for name in names]
    seconds = time.perf_counter() - begin

    assert states == ["complete"] * 1000
    assert seconds < 1
