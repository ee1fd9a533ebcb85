"""What was read of a blob is kept, and nothing that happens to the file of it does any harm."""

import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from llamaforge.catalog import index as index_module
from llamaforge.catalog import loader
from llamaforge.catalog.blob import BlobFacts, read_facts
from llamaforge.catalog.index import FactsIndex
from llamaforge.catalog.inventory import Inventory
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError
from tests.unit.catalog.store_builder import Gguf, StoreBuilder

KEY = ("a" * 64, 10, 20)


@pytest.fixture
def facts(tmp_path: Path) -> BlobFacts:
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf(extra={"tokenizer.chat_template": "{{ tools }}<think>"}).bytes())
    return read_facts(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("blobs-*.sqlite")
    return path


def test_what_was_put_comes_back_the_same(folder: Path, facts: BlobFacts) -> None:
    refused = replace(facts, untrainable=RefusedError("No.", "Yes.", code="why"))
    with FactsIndex(folder) as index:
        index.put(*KEY, facts)
        index.put("b" * 64, 1, 2, RefusedError("Broken.", "Pull.", code="broken_gguf"))
        index.put("c" * 64, 1, 2, refused)
    with FactsIndex(folder) as index:
        assert index.get(*KEY) == facts
        broken = index.get("b" * 64, 1, 2)
        assert isinstance(broken, LlamaForgeError)
        assert (broken.message, broken.hint, broken.code) == ("Broken.", "Pull.", "broken_gguf")
        third = index.get("c" * 64, 1, 2)
        assert isinstance(third, BlobFacts)
        assert third.untrainable is not None
        assert third.untrainable.code == "why"
        assert index.get(KEY[0], 11, 20) is None
        assert index.get(KEY[0], 10, 21) is None
    assert the_file(folder).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "null", "[]", '{"facts": {}}', '{"facts": null}', '{"error": ["a"]}',
        '{"error": [1, 2, 3]}', "[" * 5000,
    ],
)  # fmt: skip
def test_a_row_that_makes_no_sense_is_as_none(folder: Path, facts: BlobFacts, body: str) -> None:
    with FactsIndex(folder) as index:
        index.put(*KEY, facts)
    database = sqlite3.connect(the_file(folder))
    database.execute("UPDATE facts SET body = ?", (body,))
    database.commit()
    database.close()
    with FactsIndex(folder) as index:
        assert index.get(*KEY) is None


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": 1}, {"parameter_count": "many"}, {"details": {"a": [1]}},
        {"tensor_types": {"Q4_K": "x"}}, {"abilities": [1]}, {"untrainable": [1, 2, 3]},
        {"untrainable": "x"}, {"details": 3}, {"more": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_a_fact_of_another_kind_is_not_believed(
    folder: Path, facts: BlobFacts, change: dict[str, object]
) -> None:
    body = index_module._encoded(facts)
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        index_module._decoded({"facts": body["facts"] | change})


def test_a_file_that_is_no_database_is_begun_anew(folder: Path, facts: BlobFacts) -> None:
    with FactsIndex(folder) as index:
        index.put(*KEY, facts)
    the_file(folder).write_bytes(b"this is no database" * 1000)
    with FactsIndex(folder) as index:
        assert index.get(*KEY) is None
        index.put(*KEY, facts)
    with FactsIndex(folder) as index:
        assert index.get(*KEY) == facts


def test_a_file_that_is_cut_in_the_middle_costs_nothing_but_time(
    folder: Path, facts: BlobFacts
) -> None:
    with FactsIndex(folder) as index:
        for number in range(2000):
            index.put(f"{number:064}", 1, 1, facts)
    path = the_file(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with FactsIndex(folder) as index:
        for number in range(2000):
            assert index.get(f"{number:064}", 1, 1) in (None, facts)
        index.put(*KEY, facts)


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path: Path, facts: BlobFacts) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("here is no folder")
    with FactsIndex(blocked / "cache") as index:
        index.put(*KEY, facts)
        assert index.get(*KEY) is None


def test_it_does_not_grow_without_end(
    folder: Path, facts: BlobFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_MAX_ROWS", 60)
    with FactsIndex(folder) as index:
        for number in range(200):
            index.put(f"{number:064}", 1, 1, facts)
    with FactsIndex(folder) as index:
        kept = [index.get(f"{number:064}", 1, 1) is not None for number in range(200)]
    assert kept[-60:] == [True] * 60
    assert sum(kept) == 60


def test_code_that_reads_otherwise_has_an_index_of_its_own(
    folder: Path, facts: BlobFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FactsIndex(folder) as index:
        index.put(*KEY, facts)
    monkeypatch.setattr(index_module, "_generation", lambda: "another")
    with FactsIndex(folder) as index:
        assert index.get(*KEY) is None


def _write_many(folder: Path, facts: BlobFacts, start: int) -> None:
    with FactsIndex(folder) as index:
        for number in range(start, start + 300):
            index.put(f"{number:064}", 1, 1, facts)


def test_several_processes_may_write_at_once(folder: Path, facts: BlobFacts) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_many, args=(folder, facts, start)) for start in (0, 1000)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with FactsIndex(folder) as index:
        found = [index.get(f"{n:064}", 1, 1) for n in [*range(300), *range(1000, 1300)]]
    assert all(item in (None, facts) for item in found)
    assert found.count(facts) >= 300  # the one that had to wait too long leaves rows out


def test_a_second_look_reads_no_header(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = StoreBuilder(tmp_path / "store")
    builder.add("sound:1")
    builder.add("bad:1", b"GGUF" + b"\xff" * 40)
    first = list(Inventory.open([builder.root]).models())

    def never(path: Path) -> BlobFacts:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(loader, "read_facts", never)
    second = list(Inventory.open([builder.root]).models())
    assert [model.status for model in second] == [model.status for model in first]
    assert [model.reason for model in second] == [model.reason for model in first]
    assert second[1] == first[1]


def test_a_blob_that_was_changed_is_read_again(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "store")
    body = builder.add("m:1", Gguf(context_length=64).bytes())
    assert Inventory.open([builder.root]).find("m:1").context_length == 64
    builder.blob(body["layers"][0]["digest"]).write_bytes(Gguf(context_length=96).bytes())
    assert Inventory.open([builder.root]).find("m:1").context_length == 96


def test_that_a_file_could_not_be_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = StoreBuilder(tmp_path / "store")
    builder.add("m:1")

    def fails(path: Path) -> BlobFacts:
        raise NotFoundError("It cannot be read.", "Wait.", code="unreadable")

    with monkeypatch.context() as patch:
        patch.setattr(loader, "read_facts", fails)
        assert Inventory.open([builder.root]).find("m:1").problem is not None
    assert Inventory.open([builder.root]).find("m:1").problem is None
