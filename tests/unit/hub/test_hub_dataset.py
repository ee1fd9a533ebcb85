"""Datasets of the Hub become files of rows, from the cache where nothing may be asked."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from llamaforge.data.containers import Row, rows
from llamaforge.data.sources import HubDataset, expand, parse_source
from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.runs.hub_fetch import FetchError, fetch_dataset
from llamaforge.worker.hub_dataset import main, materialise

ROWS = {
    "train": [{"messages": [{"role": "user", "content": f"Hi {n}."}], "n": n} for n in range(3)],
    "test": [{"messages": [{"role": "user", "content": "Test."}], "n": 9}],
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache of `datasets`, with no way to the network."""
    folder = tmp_path / "hf" / "datasets"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(folder.parent))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def put(cache: Path, tmp_path: Path, splits: dict[str, Any], config: str = "default") -> None:
    """Put `owner/name` into the cache, as if it had been downloaded from the Hub before."""
    local = tmp_path / "name"
    local.mkdir(exist_ok=True)
    for split, lines in splits.items():
        body = "".join(json.dumps(line) + "\n" for line in lines)
        (local / f"{split}.jsonl").write_text(body, encoding="utf-8")
    builder = datasets.load_dataset_builder(str(local))
    builder.download_and_prepare()
    place = cache / "owner___name" / config / "0.0.0" / ("a" * 40)
    shutil.copytree(builder.cache_dir, place)
    info = json.loads((place / "dataset_info.json").read_text(encoding="utf-8"))
    info["config_name"] = config
    (place / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    shutil.rmtree(local)


def fields(path: Path) -> list[Any]:
    return [row.fields for row in rows(path) if isinstance(row, Row)]


def test_every_split_becomes_a_file_of_its_name(cache: Path, tmp_path: Path) -> None:
    put(cache, tmp_path, ROWS)
    paths = materialise("owner/name", tmp_path / "out")
    assert {path.name for path in paths} == {"train.parquet", "test.parquet"}
    assert {path.stem: fields(path) for path in paths} == ROWS


def test_one_split_may_be_chosen_and_what_is_there_is_not_written_again(
    cache: Path, tmp_path: Path
) -> None:
    put(cache, tmp_path, ROWS)
    (path,) = materialise(HubDataset("owner/name", "default", "test"), tmp_path / "out")
    before = path.stat()
    assert materialise("hf:owner/name:default/test", tmp_path / "out") == [path]
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert fields(path) == ROWS["test"]
    assert [entry.name for entry in path.parent.iterdir()] == ["test.parquet"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("owner/name/nosuch", "invalid_dataset", "Unknown split"),
        ("owner/name:fr", "invalid_dataset", "default"),
        ("owner/other", "hub_offline", "HF_HUB_OFFLINE forbids it"),
        ("owner", "invalid_dataset", "no name of a dataset"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(
    cache: Path, tmp_path: Path, name: str, code: str, words: str
) -> None:
    put(cache, tmp_path, ROWS)
    with pytest.raises(LlamaForgeError, match=words) as error:
        materialise(name, tmp_path / "out")
    assert error.value.code == code
    assert error.value.message.isprintable()
    assert error.value.hint


def test_one_of_several_configurations_has_to_be_named(cache: Path, tmp_path: Path) -> None:
    put(cache, tmp_path, ROWS, "en")
    put(cache, tmp_path, {"test": ROWS["test"]}, "fr")
    with pytest.raises(LlamaForgeError, match=r"en.*fr|fr.*en") as error:
        materialise("owner/name")
    assert error.value.exit_code == ExitCode.USAGE
    assert len(materialise("owner/name:fr", tmp_path / "out")) == 1


def test_a_folder_of_that_name_is_not_taken_for_the_dataset(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(LlamaForgeError) as error:
        materialise("hf:owner/name")
    assert error.value.code == "dataset_is_folder"


def test_pictures_are_refused_before_a_file_is_opened_that_a_row_names(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, tmp_path, {"train": [{"pages": ["/etc/hostname"], "text": "a"}]})
    info = next(cache.glob("owner___name/*/*/*/dataset_info.json"))
    told = json.loads(info.read_text(encoding="utf-8"))
    told["features"]["pages"] = {"_type": "List", "feature": {"_type": "Image"}}
    info.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(LlamaForgeError, match="'pages' holds media") as error:
        materialise("owner/name", tmp_path / "out")
    assert error.value.code == "media_dataset"


Answer = Callable[[str], tuple[int, dict[str, str]]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """A Hub of this machine, that answers every request as it is told to."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers = answers[0](self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    yield answers.append
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("status", "told", "code", "exit_code"),
    [
        (404, "RepoNotFound", "no_dataset", ExitCode.NOT_FOUND),
        (401, "RepoNotFound", "no_dataset", ExitCode.NOT_FOUND),
        (403, "GatedRepo", "gated_dataset", ExitCode.REFUSED),
        (401, "GatedRepo", "gated_dataset", ExitCode.REFUSED),
    ],
)
def test_what_the_hub_hides_is_told_by_what_to_do(
    hub: Callable[[Answer], None], status: int, told: str, code: str, exit_code: ExitCode
) -> None:
    hub(lambda _: (status, {"X-Error-Code": told, "X-Error-Message": "\x1b[31mno"}))
    with pytest.raises(LlamaForgeError) as error:
        materialise("owner/name")
    assert (error.value.code, error.value.exit_code) == (code, exit_code)
    assert error.value.message.isprintable()


def test_a_program_that_a_dataset_brings_is_not_run(hub: Callable[[Answer], None]) -> None:
    def answer(path: str) -> tuple[int, dict[str, str]]:
        if path.endswith(("README.md", "name.py")):
            return 200, {"ETag": '"a"', "X-Repo-Commit": "b" * 40}
        return 404, {"X-Error-Code": "EntryNotFound"}

    hub(answer)
    with pytest.raises(LlamaForgeError, match="a program of its own") as error:
        materialise("owner/name")
    assert error.value.code == "dataset_script"


def test_an_unreachable_hub_is_told(
    hub: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    with pytest.raises(LlamaForgeError) as error:
        materialise("owner/name")
    assert error.value.code == "hub_offline"


def test_the_answer_is_one_line_of_json(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, tmp_path, ROWS)
    assert main(["hf:owner/name/test", "--folder", str(tmp_path / "out")]) == ExitCode.DONE
    (path,) = json.loads(capsys.readouterr().out)["paths"]
    assert Path(path).name == "test.parquet"
    assert main(["hf:owner/none"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "hub_offline"


def test_another_process_fetches_for_those_who_load_no_datasets(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, tmp_path, ROWS)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    found = expand([parse_source("owner/name@0.5")], fetch_dataset)
    assert [(source.split, source.weight) for source in found.files] == [
        ("train", 0.5),
        ("test", 0.5),
    ]
    assert fields(found.paths[0]) == ROWS["train"]
    with pytest.raises(FetchError) as error:
        fetch_dataset(HubDataset("owner/none"))
    assert (error.value.code, error.value.exit_code) == ("hub_offline", ExitCode.FAILED)
