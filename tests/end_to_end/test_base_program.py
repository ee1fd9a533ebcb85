"""From a Hub cache to a proven model, through the command line and a worker of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamaforge.catalog.store import Store
from llamaforge.files import sha256_of
from llamaforge.gguf.header import read_header
from tests.conftest import live_in
from tests.contract.publishing.fake_ollama import FakeOllama
from tests.end_to_end.base_desk import COMMIT, MODEL, REPO, BaseDesk, lay_out
from tests.end_to_end.conftest import write_rows
from tests.end_to_end.finished import FinishedRun, made_once
from tests.end_to_end.program import Program
from tests.end_to_end.test_several_processes import ranks_of
from tests.end_to_end.training import BRIEF, EXACT, SETTINGS, STEPS, with_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def laid_out(kept_folder: Path) -> BaseDesk:
    folder = kept_folder / "desk"
    made_once(folder, lambda: lay_out(folder))
    return BaseDesk.of(folder)


def use(desk: BaseDesk, program: Program) -> None:
    program.environment |= {"HF_HUB_CACHE": str(desk.cache), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def desk(laid_out: BaseDesk, program: Program) -> BaseDesk:
    use(laid_out, program)
    return laid_out


@pytest.fixture(scope="module")
def lora(laid_out: BaseDesk, kept_folder: Path) -> FinishedRun:
    """A run on a base that was chosen before, with half the batch and twice the accumulation."""
    folder = kept_folder / "lora"
    with pytest.MonkeyPatch.context() as patch:
        live_in(folder, patch)
        program = Program(folder / "home")
        use(laid_out, program)

        def train() -> list[dict[str, Any]]:
            program.run("base", MODEL, "--store", str(laid_out.store), "--set", REPO)
            return program.events(*words(laid_out, write_rows(folder), "lora", **HALVED))

        return FinishedRun(program, "lora", folder / "rows.jsonl", made_once(folder, train))


HALVED = EXACT | {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "save_steps": 2,
}


def words(desk: BaseDesk, rows: Path, name: str, **settings: object) -> list[str]:
    found = ["train", "--store", str(desk.store), "--model", MODEL, "--data", str(rows)]
    found += ["--name", name, "--yes", "--from", "hub"]
    return with_settings(found, SETTINGS | settings)


def report(events: list[dict[str, Any]], kind: str) -> Any:
    return next(e["figures"] for e in events if e["type"] == "report" and e["kind"] == kind)


def test_an_adapter_of_the_base_is_served_over_the_quantised_file_and_says_what_that_costs(
    lora: FinishedRun, laid_out: BaseDesk
) -> None:
    program, events = lora.program, lora.events
    [listed] = program.json("models", "--store", str(laid_out.store))
    assert listed["trainable"]["hub"] is True, listed["trainable"]
    assert events[-1]["state"] == "finished"
    base = report(events, "base")
    assert (base["repo"], base["revision"], base["exact"]) == (REPO, COMMIT, True)
    assert 0.01 < base["error"] < 0.2
    assert report(events, "model")["base"] == "hub"
    steps = [event for event in events if event["type"] == "step"]
    assert steps[-1]["loss"] < steps[0]["loss"] / 2, "it must have learned something"

    shown = program.json("runs", "show", "lora")
    kinds = {item["kind"] for item in shown["artifacts"]}
    assert kinds == {"learned", "adapter", "verify", "modelfile", "evaluation"}
    for item in shown["artifacts"]:
        assert sha256_of(Path(item["path"])) == item["sha256"]

    proof = program.json("verify", "lora")
    assert proof["passed"] is True
    assert proof["served_as"] == "adapter"
    assert proof["trained_on"] == {"base": "hub", "repo": REPO, "revision": COMMIT}
    assert proof["loss_served"] < proof["loss_base"]
    # The adapter itself is exact; what differs is what four bits take.
    assert proof["adapter"]["kl_mean"] < proof["kl_mean"] / 5
    assert proof["kl_base_mean"] > 10 * proof["adapter"]["kl_base_mean"]
    assert "full-precision" in program.run("verify", "lora")


def test_an_adapter_of_the_base_is_merged_into_it(
    lora: FinishedRun, program: Program, desk: BaseDesk
) -> None:
    lora.copy_to(program)
    proof = program.json("verify", "lora")
    # The merged file is nearer to what was trained than an adapter over the quantised one.
    finer = program.json("export", "lora", "--quant", "Q8_0", "--imatrix")
    assert finer["imatrix_rows"] > 10
    assert finer["check"]["kl_mean"] < proof["kl_mean"] / 2
    assert finer["check"]["kl_mean"] < finer["check"]["kl_base_mean"] / 10
    header = read_header(Path(finer["path"]))
    assert header.get("llamaforge.run") == "lora"
    peft = program.json("export", "lora", "--as", "peft")
    assert peft["base_model"] == REPO
    folder = program.json("export", "lora", "--as", "hf", "--dtype", "float32")
    model = AutoModelForCausalLM.from_pretrained(folder["path"], dtype="auto")
    assert model.config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(folder["path"]).chat_template


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dora", {"use_dora": "true", "quantization": "Q8_0"}),
        ("full", {"use_peft": "false"}),
    ],
)
def test_what_no_adapter_can_hold_becomes_one_merged_file(
    name: str, settings: dict[str, object], program: Program, desk: BaseDesk, rows: Path
) -> None:
    stored = Store.open(desk.store).find(MODEL)
    with FakeOllama("0.40.0") as server:
        program.environment["OLLAMA_HOST"] = server.url
        events = program.events(
            *words(desk, rows, name, **(BRIEF | settings)),
            *("--base", REPO, "--publish", f"{name}:v1"),
        )
        assert events[-1]["state"] == "finished"
        directory = program.directory(name)
        merged = directory.artifacts / (
            "merged-Q8_0.gguf" if "quantization" in settings else "merged.gguf"
        )
        published = report(events, "published")
        assert (published["name"], published["form"]) == (f"{name}:v1", "gguf")
        model = server.models[f"{name}:v1"]
        assert (model.weights, model.adapters) == (sha256_of(merged), [])
        assert model.template == stored.template
        assert program.json("publish", name, "--name", "x", "--as", "adapter", code=2)
        if name == "full":  # what follows a run is the same for both
            again = program.json("publish", name, "--name", f"{name}:v2")
            assert again["file_sha256"] == published_digest(directory.artifacts)
    proof = program.json("verify", name)
    assert (proof["passed"], proof["served_as"], proof["adapter"]) == (True, "merged", None)
    assert proof["loss_served"] < proof["loss_base"] - 1
    assert proof["file_sha256"] == sha256_of(merged)
    refused = program.json("export", name, "--as", "adapter", code=3)
    assert refused["error"]["code"] == "no_adapter"
    types = {info.type.name for info in read_header(merged).tensors.values()}
    assert ("Q8_0" in types) is (name == "dora")


def test_pairs_are_learned_from_on_the_base_and_the_result_is_proven(
    program: Program, desk: BaseDesk, pairs: Path
) -> None:
    usual = {"max_steps": 8, "max_rows": 4, "max_new_tokens": 2, "eval_steps": 8}
    events = program.events(
        *words(desk, pairs, "liked", **usual), "--base", REPO, "--method", "dpo"
    )
    assert events[-1]["state"] == "finished"
    steps = [event for event in events if event["type"] == "step"]
    assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    evals = [event["metrics"] for event in events if event["type"] == "eval"]
    assert evals[0]["rewards/margins"] == 0.0
    assert evals[-1]["rewards/margins"] > 0.02
    proof = program.json("verify", "liked")
    assert (proof["passed"], proof["served_as"]) == (True, "adapter")
    assert proof["adapter"]["kl_mean"] < proof["kl_mean"]
    report_file = program.directory("liked").artifacts / "evaluation.json"
    found = json.loads(report_file.read_text())["preferences"]
    assert found["tuned"]["margin"] > found["base"]["margin"], "in llama.cpp, as it is served"
    refused = program.json(
        *words(desk, pairs, "full", use_peft="false"), "--base", REPO, "--method", "kto", code=2
    )
    assert "a second copy of all weights" in refused["error"]["message"]


def test_processes_that_divide_the_base_among_them_follow_one_that_has_it_whole(
    program: Program, desk: BaseDesk, rows: Path, lora: FinishedRun
) -> None:
    """Frozen layers are divided (FSDP); adapter, checkpoints and proof are as ever.

    One of the processes is killed on the way.
    """
    divided = {"processes": 2, "fsdp": "true", "gradient_checkpointing": "true"}
    divided |= HALVED | BRIEF | {"gradient_accumulation_steps": 1}
    program.run(*words(desk, rows, "two", **divided), "--base", REPO, "--detach")
    program.wait_for_step("two", 3)
    ranks_of(program, "two")[-1].kill()
    program.wait_until_over("two")
    two = [json.loads(line) for line in program.directory("two").events_file.open()]
    assert two[-1]["state"] == "finished", program.logs()[-3000:]
    for kind in ("step", "eval"):
        ours, theirs = (
            {event["step"]: event["loss"] for event in events if event["type"] == kind}
            for events in (two, lora.events)
        )
        assert ours == pytest.approx(theirs, abs=5e-4), kind
    assert len([event for event in two if event["type"] == "step"]) > STEPS, "some were done again"
    sharded = report(two, "sharded")
    assert sharded["layers"] > 1
    # Half of every layer lies with the other process; embeddings and head are in both.
    assert sharded["whole_bytes"] - sharded["kept_bytes"] > 0.25 * sharded["whole_bytes"]
    first, second = (
        load_file(run.artifacts / "learned" / "adapter_model.safetensors")
        for run in (lora.program.directory("lora"), program.directory("two"))
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.allclose(value, second[name], atol=5e-4), name


def published_digest(artifacts: Path) -> str:
    return str(json.loads((artifacts / "verify.json").read_text())["file_sha256"])


@pytest.mark.campaign
def test_a_worker_that_was_killed_goes_on_to_the_very_same_weights(
    program: Program, desk: BaseDesk, rows: Path
) -> None:
    settings = {"use_peft": "false", "max_steps": 8, "base": "hub"}
    through, killed = (
        [*words(desk, rows, name, **settings), "--base", str(desk.folder)]
        for name in ("through", "killed")
    )
    program.run(*through)
    program.run(*killed, "--detach")
    program.wait_for_step("killed", 5)
    program.kill("killed")
    program.run("runs", "resume", "killed")
    files = [
        program.directory(name).artifacts / "learned" / "model.safetensors"
        for name in ("through", "killed")
    ]
    assert sha256_of(files[0]) == sha256_of(files[1])


def test_a_base_that_changed_is_found_when_a_run_is_resumed(
    program: Program, desk: BaseDesk, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(desk.folder, folder)
    program.run(*words(desk, rows, "stopped", max_steps=400), "--base", str(folder), "--detach")
    program.wait_for_step("stopped", 1)
    program.run("runs", "stop", "stopped")
    file = folder / "model-00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    events = program.events("runs", "resume", "stopped", code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "base_changed"
    assert file.name in failed["message"]


def test_a_damaged_file_of_the_cache_is_named_with_its_digest(
    program: Program, desk: BaseDesk, rows: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(desk.cache, cache, symlinks=True)
    program.environment["HF_HUB_CACHE"] = str(cache)
    blob = max(cache.rglob("blobs/*"), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[-5] ^= 1
    blob.write_bytes(bytes(content))
    events = program.events(*words(desk, rows, "damaged"), "--base", REPO, code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "bad_base"
    assert blob.name[:12] in failed["message"]


def test_another_models_base_is_never_trained_on(
    program: Program, desk: BaseDesk, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(desk.folder, folder)
    file = folder / "model-00001-of-00001.safetensors"
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(value.shape, np.float32)
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    events = program.events(*words(desk, rows, "other"), "--base", str(folder), code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "other_base"
