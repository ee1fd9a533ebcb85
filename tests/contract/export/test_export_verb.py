"""`llamaforge export` as a person and as a script meet it."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamaforge import hardware, paths
from llamaforge.catalog.base_choices import remember_base
from llamaforge.catalog.store import Store
from llamaforge.cli.main import main
from llamaforge.errors import ExitCode
from llamaforge.export import base_run
from llamaforge.export.adapter import write_adapter
from llamaforge.export.layout import Layout
from llamaforge.gguf.header import read_header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.spec import (
    DataChoice,
    EvaluationSettings,
    PublishChoice,
    ResolvedModel,
    RunSpec,
)
from llamaforge.runs.directory import RunDirectory, create_run
from llamaforge.runs.lock import RunLock
from llamaforge.worker.layout import model_layout
from tests.contract.engine.engine_bench import SETTINGS, make_trained

MODEL = "llamaforge-demo"
ANSWER_IDS = list(range(3, 20))
_ASK_LAYOUT = base_run.ask_layout


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built-in store, and a home of its own."""
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    return Path(shutil.copytree(paths.embedded_store(), tmp_path / "store"))


@pytest.fixture
def run(store: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run as it stands when its adapter is exported.

    How transformers lays out its model is found in this process: it has the libraries already.
    """
    monkeypatch.setattr(base_run, "ask_layout", laid_out_here)
    model = Store.open(store).find(MODEL)
    assert model.blob is not None
    directory = create_run("night")
    RunSpec(
        run="night",
        model=ResolvedModel(
            name=model.name,
            store=store,
            blob=model.blob,
            digest=model.blob_digest,
            architecture=model.architecture,
            quantization=model.quantization,
            context_length=model.context_length,
        ),
        data=DataChoice(sources=[store / "rows.jsonl"]),
        training=SETTINGS,
        evaluation=EvaluationSettings(),
        publish=PublishChoice(),
    ).save(directory.spec_file)
    header = read_header(model.blob)
    path = directory.artifacts / "adapter.gguf"
    layers = make_trained(header).layers()
    write_adapter(path, header, layers, name="night", base_digest=model.blob_digest)
    directory.list_artifact("adapter", path, hashlib.sha256(path.read_bytes()).hexdigest())
    (directory.artifacts / "verify.json").write_text('{"passed": true}')
    return directory


def laid_out_here(files: Sequence[Path]) -> Layout:
    return model_layout(read_model(files[0], files))


@pytest.fixture
def asked_process(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a person meets it: the layout is found in a process of its own."""
    monkeypatch.setattr(base_run, "ask_layout", _ASK_LAYOUT)


def call(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["export", *line])
    printed = capsys.readouterr()
    return int(code), printed.out, printed.err


def exported(capsys: pytest.CaptureFixture[str], *line: str) -> dict[str, Any]:
    code, out, err = call(capsys, *line, "--json")
    assert code == ExitCode.DONE, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model.eval()(input_ids=torch.tensor([ANSWER_IDS])).logits
        assert isinstance(found, torch.Tensor)
        return found


@pytest.mark.usefixtures("asked_process")
def test_both_directories_give_one_model(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "away" / "model"
    found = exported(capsys, "night", "--as", "hf", "--dtype", "float32", "--out", str(out))
    assert found["kind"] == "hf"
    assert found["path"] == str(out)
    assert found["dtype"] == "float32"
    assert found["weights"] == ["model-00001-of-00001.safetensors"]
    assert set(found["files"]) == {item.name for item in out.iterdir()}
    assert found["size_bytes"] == sum(item.stat().st_size for item in out.iterdir())
    peft = exported(capsys, "night", "--as", "peft")
    assert peft["path"] == str(run.artifacts / "peft")
    assert peft["base_model"] is None
    kinds = {item["kind"]: item for item in run.artifact_list()}
    assert {"adapter", "hf", "peft"} <= set(kinds)
    assert kinds["hf"]["sha256"] == found["sha256"]
    whole = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template
    base = make_base(run, tmp_path)
    untuned = logits(AutoModelForCausalLM.from_pretrained(base))
    tuned = logits(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), peft["path"])
    )
    assert torch.allclose(tuned, logits(whole), atol=1e-4)
    assert not torch.allclose(tuned, untuned, atol=1e-1)


def make_base(run: RunDirectory, folder: Path) -> Path:
    """Return the model without the adapter, in full precision."""
    from llamaforge.export.hugging_face import write_hugging_face
    from llamaforge.worker.layout import model_layout

    header = read_header(RunSpec.load(run.spec_file).model.blob)
    layout = model_layout(header)
    target = folder / "base"
    return write_hugging_face(target, header, None, layout, dtype="float32", chat_template="").path


def test_it_goes_into_the_run_and_says_where(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "night", "--as", "hf")
    assert code == ExitCode.DONE
    assert out == f"{run.artifacts / 'hf'}\n"
    assert "100%" in err
    assert json.loads((run.artifacts / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_adapter_names_the_base_that_is_known(
    run: RunDirectory, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember_base(Store.open(store).find(MODEL), "owner/name")
    found = exported(capsys, "night", "--as", "peft")
    assert found["base_model"] == "owner/name"
    config = json.loads((run.artifacts / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"
    assert (config["r"], config["lora_alpha"]) == (SETTINGS.lora_r, SETTINGS.lora_alpha)


def test_the_template_of_the_run_goes_along(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = RunSpec.load(run.spec_file)
    template = "{{ messages[0]['content'] }}!"
    model = spec.model.model_copy(update={"chat_template": template})
    spec.model_copy(update={"model": model}).save(run.spec_file)
    exported(capsys, "night", "--as", "hf")
    tokenizer = AutoTokenizer.from_pretrained(run.artifacts / "hf")
    turn = [{"role": "user", "content": "Hm"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "Hm!"


@pytest.mark.parametrize("form", ["hf", "peft"])
def test_a_taken_place_is_refused_and_can_be_forced(
    form: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(capsys, "night", "--as", form)
    code, out, err = call(capsys, "night", "--as", form, "--json")
    assert code == ExitCode.REFUSED
    assert json.loads(out)["error"]["code"] == "exists"
    assert "--force" in err + out
    exported(capsys, "night", "--as", form, "--force")


def test_a_folder_of_other_things_is_never_replaced(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    place = str(tmp_path / "letters")
    code, _, err = call(capsys, "night", "--as", "hf", "--out", place, "--force")
    assert code == ExitCode.REFUSED
    assert "is no folder of a model" in err
    assert (tmp_path / "letters" / "a.txt").exists()


@pytest.mark.parametrize("form", ["hf", "peft"])
def test_a_run_that_is_not_there_is_named(
    form: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "nobody", "--as", form)
    assert code == ExitCode.NOT_FOUND
    assert "nobody" in err


def test_a_run_without_an_adapter_is_not_exported(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.artifacts / "adapter.gguf").unlink()
    code, _, err = call(capsys, "night", "--as", "hf")
    assert code == ExitCode.NOT_FOUND
    assert "no adapter yet" in err


def test_a_model_whose_file_is_gone_is_named(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    RunSpec.load(run.spec_file).model.blob.unlink()
    code, _, err = call(capsys, "night", "--as", "peft")
    assert code == ExitCode.NOT_FOUND
    assert "ollama pull" in err


def test_a_full_disk_is_refused_before_anything_is_written(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda folder: 1000)
    code, out, err = call(capsys, "night", "--as", "hf", "--json")
    assert code == ExitCode.REFUSED
    assert json.loads(out)["error"]["code"] == "no_disk_space"
    assert "Nothing was written." in err
    assert sorted(item.name for item in run.artifacts.iterdir()) == [
        "adapter.gguf",
        "artifacts.json",
        "verify.json",
    ]


@pytest.mark.parametrize("form", ["adapter", "gguf", "hf", "peft"])
@pytest.mark.parametrize("report", [None, '{"passed": false, "reason": "it differs"}'])
def test_what_is_not_proven_is_not_exported(
    form: str, report: str | None, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.artifacts / "verify.json"
    path.unlink() if report is None else path.write_text(report)
    code, out, _ = call(capsys, "night", "--as", form, "--json")
    assert code == ExitCode.REFUSED
    error = json.loads(out)["error"]
    assert error["code"] == "not_verified"
    assert ("it differs" in error["message"]) is (report is not None)


@pytest.mark.usefixtures("asked_process")
def test_what_cannot_be_laid_out_is_refused_with_its_reason(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.contract.engine.engine_bench import VOCABULARY
    from tools.architecture_models import RECIPES, Recipe, write_architecture_model

    odd = Recipe("llama", f"{RECIPES['llama'].tensors} attn_output.bias:h")
    RECIPES["odd"] = odd  # type: ignore[index]
    try:
        blob = write_architecture_model(tmp_path / "odd.gguf", "odd", VOCABULARY, "F32")
    finally:
        del RECIPES["odd"]  # type: ignore[attr-defined]
    spec = RunSpec.load(run.spec_file)
    model = spec.model.model_copy(update={"blob": blob})
    spec.model_copy(update={"model": model}).save(run.spec_file)
    header = read_header(blob)
    layers = make_trained(header).layers()
    digest = spec.model.digest
    adapter = run.artifacts / "adapter.gguf"
    write_adapter(adapter, header, layers, name="x", base_digest=digest)
    run.list_artifact("adapter", adapter, hashlib.sha256(adapter.read_bytes()).hexdigest())
    code, out, _ = call(capsys, "night", "--as", "hf", "--json")
    error = json.loads(out)["error"]
    assert code == ExitCode.REFUSED
    assert error["code"] == "cannot_export"
    assert "has no place for" in error["message"]
    assert not (run.artifacts / "hf").exists()


@pytest.mark.parametrize(
    "line", [("--as", "hf", "--quant", "Q8_0"), ("--as", "gguf", "--dtype", "float16"),
             ("--as", "peft", "--dtype", "float32")]
)  # fmt: skip
def test_an_option_of_another_form_is_a_mistake(
    line: tuple[str, ...], run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "night", *line)
    assert code == ExitCode.USAGE
    assert "has no meaning with" in err


def test_the_time_that_is_left_counts_from_the_first_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamaforge.cli import export

    clock = iter([0.0, 60.0, 70.0, 80.0])
    monkeypatch.setattr("llamaforge.cli.export.time.monotonic", lambda: next(clock))
    narrator = export.MergeNarrator()
    for done in (1_000_000, 2_000_000, 4_000_000):
        narrator.tell(done, 4_000_000)
    first, second, last = capsys.readouterr().err.splitlines()
    assert "left" not in first
    assert second.endswith("20 s left")
    assert "left" not in last


def test_the_adapter_goes_where_it_is_asked_for_with_its_digest(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "a.gguf"
    found = exported(capsys, "night", "--as", "adapter", "--out", str(target))
    adapter = (run.artifacts / "adapter.gguf").read_bytes()
    assert target.read_bytes() == adapter
    assert found["sha256"] == hashlib.sha256(adapter).hexdigest()
    assert found["size_bytes"] == len(adapter)


@pytest.mark.parametrize("form", ["adapter", "gguf", "hf", "peft"])
def test_a_place_that_cannot_be_written_is_named(
    form: str, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    target = tmp_path / "file" / "out"
    code, out, err = call(capsys, run.id, "--as", form, "--out", str(target))
    assert code == ExitCode.FAILED
    assert not out
    assert f"{target} cannot be written: " in err
    assert "unexpected" not in err


@pytest.mark.parametrize("form", ["gguf", "adapter"])
def test_the_model_itself_is_never_replaced(
    form: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = RunSpec.load(run.spec_file).model.blob
    before = blob.read_bytes()
    code, out, _ = call(capsys, "night", "--as", form, "--out", str(blob), "--force", "--json")
    assert code != ExitCode.DONE
    assert json.loads(out)["error"]["code"] == "is_the_model"
    assert blob.read_bytes() == before


@pytest.mark.parametrize("form", ["gguf", "hf", "peft"])
def test_a_run_that_somebody_holds_is_left_alone(
    form: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLock(run.lock_file):
        code, out, _ = call(capsys, "night", "--as", form, "--json")
    assert code == ExitCode.REFUSED
    assert json.loads(out)["error"]["code"] == "run_locked"
    assert not list(run.artifacts.glob("merged*"))
