"""What is named as data becomes files: each once, in a settled order, with its share."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llamaforge.data.containers import Row, rows
from llamaforge.data.sources import (
    HubDataset,
    Source,
    copies,
    exists,
    expand,
    hub_dataset,
    parse_source,
    side_of_name,
)
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError, UsageError

LINE = json.dumps({"question": "a", "answer": "b"}) + "\n"


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINE, encoding="utf-8")
    return folder


def names(folder: Path, *sources: str) -> list[str]:
    found = expand([parse_source(source) for source in sources])
    return [str(path.relative_to(folder)) for path in found.paths]


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("rows.jsonl", "rows.jsonl", 1.0),
        ("rows.jsonl@0.5", "rows.jsonl", 0.5),
        ("a@b/rows@2", "a@b/rows", 2.0),
        ("rows@.25", "rows", 0.25),
        ("rows@1e-3", "rows", 0.001),
        ("me@home", "me@home", 1.0),
        ("hf:owner/name:en/train@0.1", "hf:owner/name:en/train", 0.1),
    ],
)
def test_a_weight_stands_behind_the_last_at_sign(text: str, path: str, weight: float) -> None:
    source = parse_source(text)
    assert (source.path, source.weight) == (path, weight)
    assert parse_source(source.text()) == source


def test_a_file_whose_name_ends_like_a_weight_is_that_file(tmp_path: Path) -> None:
    fill(tmp_path, "rows@2")
    assert parse_source(f"{tmp_path}/rows@2").weight == 1.0
    assert names(tmp_path, f"{tmp_path}/rows@2@3") == ["rows@2"]


def test_a_recipe_may_say_it_at_length_and_gets_it_back(tmp_path: Path) -> None:
    class Recipe(BaseModel):
        sources: list[Source]

    entry = {"path": "b.csv", "weight": 2, "split": "valid", "mapping": {"prompt": "frage"}}
    recipe = Recipe.model_validate({"sources": ["a.jsonl@0.5", entry, tmp_path]})
    assert [source.weight for source in recipe.sources] == [0.5, 2.0, 1.0]
    assert recipe.sources[1].split == "validation"
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    "entry",
    [
        *("", "rows@0", "rows@101", 17, None, {"path": "a", "weights": 1}, {"weight": 1}),
        *({"path": "a", "weight": "nan"}, {"path": "a", "split": "all"}, {"path": "a\x1b@0"}),
    ],
)
def test_what_is_no_source_is_refused_in_a_sentence(entry: object) -> None:
    if entry == {"path": "a\x1b@0"}:
        entry = {"path": "a\x1b", "weight": -1}
    with pytest.raises(UsageError) as error:
        parse_source(entry)
    assert error.value.code == "invalid_source"
    assert error.value.message.isprintable()


def test_a_folder_stands_for_its_data_files_by_name_and_those_one_level_below(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "b.jsonl", "a.csv.gz", "c.md", "d", "sub/e.parquet", "sub/deeper/f.jsonl")
    fill(tmp_path, "README.md", ".hidden.jsonl", "_tmp.csv", "logo.png", "sub/.git", ".cache/x.csv")
    found = expand([parse_source(str(tmp_path))])
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == [
        *("a.csv.gz", "b.jsonl", "c.md", "d", "sub/e.parquet")
    ]
    (warning,) = found.warnings
    left_out = [".cache/", ".hidden.jsonl", "README.md", "_tmp.csv", "logo.png", "sub/.git"]
    assert warning == f"Left out of {tmp_path}: {', '.join(left_out)}, sub/deeper/."


def test_names_in_warnings_are_safe_and_few(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "\x1b[31m.png", *(f"{number}.bin" for number in range(50)))
    (warning,) = expand([parse_source(str(tmp_path))]).warnings
    assert warning.isprintable()
    assert warning.endswith("and 41 more.")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="holds no data files") as error:
        expand([parse_source(str(fill(tmp_path, "x.png")))])
    assert error.value.code == "empty_folder"


def test_files_named_after_a_side_are_for_it_and_that_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "train-00000-of-00002.jsonl", "test.jsonl", "more.jsonl", "val/x.jsonl")
    found = expand([parse_source(str(tmp_path))])
    assert [source.split for source in found.files] == [None, "test", "train", "validation"]
    assert "Taken for test by name: test.jsonl." in found.warnings
    chosen = expand([parse_source({"path": str(tmp_path), "split": "train"})])
    assert {source.split for source in chosen.files} == {"train"}
    alone = expand([parse_source(str(tmp_path / "test.jsonl"))])
    assert (alone.files[0].split, alone.warnings) == (None, ())


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test.jsonl", "test"),
        ("my_test.csv", "test"),
        ("Validation-1.parquet", "validation"),
        ("test/part.csv", "test"),
        ("latest.csv", None),
        ("train_test.csv", None),
        ("trainer.csv", None),
    ],
)
def test_a_side_is_a_word_of_the_name(name: str, side: str | None) -> None:
    assert side_of_name(name) == side


def test_a_pattern_stands_for_what_it_matches(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl", "c.csv", "x/y/d.jsonl")
    assert names(tmp_path, f"{tmp_path}/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path, f"{tmp_path}/**/*.jsonl") == ["a.jsonl", "b.jsonl", "x/y/d.jsonl"]
    with pytest.raises(NotFoundError, match="No file matches"):
        names(tmp_path, f"{tmp_path}/*.parquet")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    fill(tmp_path, "rows[1].jsonl")
    assert names(tmp_path, f"{tmp_path}/rows[1].jsonl") == ["rows[1].jsonl"]


def test_each_file_carries_what_its_source_says(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl")
    entry = {"path": str(tmp_path), "weight": 0.5, "format": "chat", "mapping": {"x": "y"}}
    files = expand([parse_source(entry)]).files
    assert [(f.weight, f.format, f.mapping) for f in files] == [(0.5, "chat", {"x": "y"})] * 2


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl")
    with pytest.raises(UsageError, match="named twice"):
        names(tmp_path, str(tmp_path), f"{tmp_path}/a.jsonl")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    fill(tmp_path, "train.jsonl")
    with pytest.raises(NotFoundError) as error:
        names(tmp_path, f"{tmp_path}/trian.jsonl")
    assert "train.jsonl" in error.value.hint


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf:owner/name", HubDataset("owner/name")),
        ("hf:owner/name:en-US/train", HubDataset("owner/name", "en-US", "train")),
        ("hf:owner/name/test", HubDataset("owner/name", None, "test")),
        ("owner/name", HubDataset("owner/name")),
        ("owner/name:en", HubDataset("owner/name", "en")),
        ("owner/name.jsonl", None),
        ("owner/name/test", None),
        ("./owner/name", None),
        ("name", None),
        ("../x", None),
    ],
)
def test_what_names_a_dataset_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: HubDataset | None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_dataset(parse_source(text)) == found
    if found is not None:
        assert hub_dataset(parse_source(found.text())) == found


def test_a_path_that_exists_is_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, "owner/name", "owner/rows.jsonl"))
    assert hub_dataset(parse_source("owner/name")) is None
    assert hub_dataset(parse_source("owner/rows")) is None  # a slip: the folder is there
    assert hub_dataset(parse_source("hf:owner/name")) == HubDataset("owner/name")


@pytest.mark.parametrize(
    "text", ["hf:", "hf:name", "hf:a/b/c/d", "hf:../etc", "hf:a/..", "hf:a/b:"]
)
def test_what_cannot_be_a_dataset_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as error:
        hub_dataset(parse_source(text))
    assert error.value.code == "invalid_dataset"


def test_a_dataset_is_fetched_and_its_splits_keep_their_sides(tmp_path: Path) -> None:
    fill(tmp_path, "train.jsonl", "test.jsonl", "extra.jsonl")
    asked: list[HubDataset] = []

    def fetch(dataset: HubDataset) -> list[Path]:
        asked.append(dataset)
        return [tmp_path / f"{name}.jsonl" for name in ("train", "test", "extra")]

    found = expand([parse_source("hf:owner/name:en@0.5")], fetch)
    assert asked == [HubDataset("owner/name", "en")]
    assert [(f.place.stem, f.split, f.weight) for f in found.files] == [
        ("train", "train", 0.5),
        ("test", "test", 0.5),
        ("extra", None, 0.5),
    ]
    assert all(isinstance(row, Row) for path in found.paths for row in rows(path))
    with pytest.raises(UsageError) as error:
        expand([parse_source("hf:owner/name")])
    assert error.value.code == "no_fetch"
    with pytest.raises(NotFoundError, match="There is no file nobody/nothing"):
        expand([parse_source("nobody/nothing")])


def test_a_home_of_nobody_is_a_name_like_any_other() -> None:
    assert parse_source("~nobody-at-all/x").place == Path("~nobody-at-all/x")


@given(text=st.text(max_size=30))
def test_no_text_at_all_does_more_than_be_a_source_or_a_refusal(text: str) -> None:
    try:
        hub_dataset(parse_source(text))
    except LlamaForgeError as error:
        message = error.message
        assert message.isprintable()


IDS = [f"{number:016x}" for number in range(4000)]


@pytest.mark.parametrize(("weight", "total"), [(0.25, 1000), (0.5, 2000), (1, 4000), (2.5, 10000)])
def test_a_weight_takes_about_its_part_of_the_rows(weight: float, total: int) -> None:
    assert sum(copies(row, weight, 7) for row in IDS) == pytest.approx(total, abs=130)


@given(
    row=st.text(max_size=16),
    weights=st.tuples(st.floats(0.001, 100), st.floats(0.001, 100)).map(sorted),
    seed=st.integers(),
)
def test_a_larger_weight_never_takes_a_row_less_often(
    row: str, weights: list[float], seed: int
) -> None:
    few, many = (copies(row, weight, seed) for weight in weights)
    assert few <= many
    assert int(weights[0]) <= few <= int(weights[0]) + 1


def test_another_seed_takes_other_rows() -> None:
    chosen = [{row for row in IDS if copies(row, 0.5, seed)} for seed in (1, 2)]
    assert 800 < len(chosen[0] & chosen[1]) < 1200


@pytest.mark.parametrize("weight", [0.5, 2.0, 0.1234567, 99.99999, 1e-7, 1 / 3])
def test_a_weight_is_written_as_it_was_given(weight: float) -> None:
    source = Source(path="rows.jsonl", weight=weight)
    assert parse_source(source.text()) == source
    assert parse_source(source.absolute().model_dump()).weight == weight


def test_a_path_that_looks_weighted_stays_as_it_is_when_it_is_made_absolute() -> None:
    source = parse_source("rows@2@1")
    assert (source.path, source.weight) == ("rows@2", 1.0)
    assert (source.absolute().place.name, source.absolute().weight) == ("rows@2", 1.0)


def test_a_name_that_is_not_utf8_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="not UTF-8; rename"):
        parse_source("rows\udcff.jsonl")


def test_within_a_folder_a_file_may_have_any_name(tmp_path: Path) -> None:
    name = "rows\udcff.jsonl"
    (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')
    assert [path.name for path in expand([Source(path=str(tmp_path))]).paths] == [name]


def test_a_name_that_is_too_long_for_any_file_is_not_there() -> None:
    assert not exists(Path("a" * 5000))
    assert not exists(Path("a\0b"))


def test_a_pattern_does_not_follow_links_without_end(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for folder in (tmp_path, inner, tmp_path / ".hidden"):
        (folder / f"{folder.name}.jsonl").write_text(LINE)
    for number in range(4):
        (inner / f"back{number}").symlink_to(tmp_path, target_is_directory=True)
    for pattern in ("**/*.jsonl", "**/**/*.jsonl", "**"):
        found = expand([parse_source(str(tmp_path / pattern))]).paths
        assert found == tuple(sorted([tmp_path / f"{tmp_path.name}.jsonl", inner / "b.jsonl"]))
