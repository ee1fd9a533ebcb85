"""Two processes train one adapter: as one process with twice the accumulation would."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from llamaforge import paths
from tests.end_to_end.program import Program
from tests.end_to_end.test_train_program import adapter_values, train_words

pytestmark = pytest.mark.slow

TWO = {"compute_dtype": "float32", "per_device_train_batch_size": 2, "processes": 2}
ONE = {
    "compute_dtype": "float32",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}


def losses(found: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in found if event["type"] == "step"]


def require_alike(program: Program, name: str, other: str) -> None:
    ours, theirs = adapter_values(program, name), adapter_values(program, other)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        found, expected = (np.frombuffer(item, np.float32) for item in (value, theirs[key]))
        assert found == pytest.approx(expected, abs=2e-4), key


def ranks_of(program: Program, name: str) -> list[psutil.Process]:
    worker = program.directory(name).process()
    if worker is None:
        return []
    found = []
    for child in worker.children(recursive=True):
        try:
            if "llamaforge.worker.rank" in child.cmdline() and "LOCAL_RANK" in child.environ():
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def labelled(tmp_path: Path, rows: Path) -> Path:
    """Rows with their own answers, which are good, and with those of other rows, which are not."""
    path = tmp_path / "labelled.jsonl"
    asked = [json.loads(line)["messages"] for line in rows.read_text().splitlines()[:48]]
    with path.open("w") as file:
        for place, turns in enumerate(asked):
            good = place % 3 != 0
            answer = turns[-1] if good else asked[place - 7][-1]
            body = {"prompt": turns[:-1], "completion": [answer], "label": good}
            file.write(json.dumps(body) + "\n")
    return path


def phases(name: str, folder: Path, sources: list[Path], accumulation: int, processes: int) -> Path:
    """Write a recipe whose phases pack rows, learn from pairs, and learn from labels."""
    usual = {
        "compute_dtype": "float32",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-3,
        "lora_r": 4,
        "max_steps": 4,
        "save_steps": 2,
    }
    methods: list[dict[str, Any]] = [{"packing": True}, {"method": "dpo"}, {"method": "kto"}]
    first, *others = (
        {"data": {"sources": [str(source)]}, "training": usual | method}
        for source, method in zip(sources, methods, strict=True)
    )
    body = {
        "model": {"name": "llamaforge-demo", "store": str(paths.embedded_store())},
        **first,
        "then": others,
        "evaluation": {"fidelity_rows": 2, "max_rows": 3, "max_new_tokens": 2},
        "launch": {"processes": processes},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def test_two_processes_follow_one_with_twice_the_accumulation_through_all_phases(
    program: Program, rows: Path, pairs: Path, labelled: Path, tmp_path: Path
) -> None:
    """One of the two is killed on the way: both are started again, and the run ends right."""
    sources = [rows, pairs, labelled]
    one = program.events(
        "train", str(phases("one", tmp_path, sources, 4, 1)), "--name", "one", "--yes"
    )
    recipe = str(phases("two", tmp_path, sources, 2, 2))
    plan = program.json("plan", recipe)
    assert [phase["steps"] for phase in plan["phases"]] == [4, 4, 4]
    assert (plan["steps"], plan["processes"], plan["problems"]) == (12, 2, [])
    assert plan["settings"]["effective_batch_size"] == 8
    program.run("train", recipe, "--name", "two", "--yes", "--detach")
    program.wait_for_step("two", 7)
    ranks = ranks_of(program, "two")
    assert len(ranks) == 2
    ranks[-1].kill()
    program.wait_for_step("two", 12)
    program.wait_until_over("two")
    two = [json.loads(line) for line in program.directory("two").events_file.open()]
    assert two[-1].get("state") == "finished", program.logs()[-3000:]
    assert [event["seq"] for event in two] == list(range(1, len(two) + 1))
    launches = [event["figures"] for event in two if event.get("kind") == "launch"]
    assert len(launches) == 3, "one for each phase"
    for launch in launches:
        assert "torch.distributed.run --nnodes=1 --nproc-per-node=2 --max-restarts=3" in " ".join(
            launch["command"].split()
        )
    told = [event["figures"] for event in two if event.get("kind") == "predicted"]
    assert [figures["steps"] for figures in told] == [4, 4, 4]
    assert all(figures["seconds"] > 0 for figures in told)
    assert "not_packed" not in [event.get("code") for event in two]
    of_one, of_two = (
        [{e["step"]: e for e in events if e["type"] == kind} for kind in ("step", "eval")]
        for events in (one, two)
    )
    assert len([event for event in two if event["type"] == "step"]) > 12, "some were done again"
    assert list(of_two[0]) == list(range(1, 13))
    assert [event["total"] for event in of_two[0].values()] == [4] * 4 + [8] * 4 + [12] * 4
    for ours, theirs, tolerance in zip(of_two, of_one, (3e-4, 1e-3), strict=True):
        assert ours.keys() == theirs.keys()
        for step, event in ours.items():
            assert event["loss"] == pytest.approx(theirs[step]["loss"], abs=tolerance), step
            assert event["metrics"] == pytest.approx(theirs[step]["metrics"], abs=3e-3), step
    assert of_one[0][5]["metrics"]["rewards/margins"] == 0.0, "its reference is the first phase"
    assert of_one[0][9]["metrics"]["kl"] == 0.0, "its reference is the second phase"
    assert abs(of_one[0][12]["metrics"]["rewards/margins"]) > 0.01, "the model must have moved"
    require_alike(program, "two", "one")
    report = json.loads((program.directory("two").artifacts / "evaluation.json").read_text())
    assert report["labels"]["good"] > 0
    assert report["labels"]["bad"] > 0
    assert "Not trained on, and rewarded in the mean" in program.run("runs", "attach", "two")
    check = ("data", "check", str(labelled), "--preference", "labelled")
    figures = program.json(*check)["analysis"]["flags"]
    assert figures["labelled"] == {"good": 32, "bad": 16}
    refused = program.json("data", "check", str(labelled), code=2)
    assert "--method kto" in refused["error"]["hint"]


def test_several_processes_stop_save_pause_and_go_on(program: Program, rows: Path) -> None:
    words = train_words(rows, "two", **TWO, max_steps=4000, save_steps=3000, eval_steps=3000)
    program.run(*words, "--detach")
    program.wait_for_step("two", 2)
    paused = program.json("runs", "pause", "two")
    assert program.json("runs", "show", "two")["state"] == "paused"
    assert program.json("runs", "save", "two")["step"] == paused["step"]
    program.run("runs", "resume", "two", "--detach")
    program.wait(lambda: program.json("runs", "show", "two")["step"] > paused["step"])
    ranks = ranks_of(program, "two")
    program.run("runs", "stop", "two")
    shown = program.json("runs", "show", "two")
    assert shown["state"] == "stopped"
    saved = sorted(path.name for path in program.directory("two").checkpoints.glob("step-*"))
    assert saved[-1] == f"step-{shown['step']:06d}"
    assert not [rank for rank in ranks if rank.is_running()], "no rank is left behind"


@pytest.fixture
def two_hosts() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces that see each other: the words that run a program in each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip")
    names = [f"llamaforge-{os.getpid()}-{side}" for side in "ab"]

    def ip(*words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "lf0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "lf0",
            "netns",
            names[1],
        )
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "lf0")
            for device in ("lo", "lf0"):
                ip("-n", name, "link", "set", device, "up")
        yield ["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]]
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces: {error.stderr!r}")
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def test_two_hosts_train_as_one(
    program: Program, rows: Path, two_hosts: tuple[list[str], list[str]]
) -> None:
    first, second = two_hosts
    one = program.events(*train_words(rows, "one", **ONE))
    over = {"machines": 2, "rendezvous": "10.99.0.1:29400", "interface": "lf0", "processes": 1}
    words = train_words(rows, "two", **(TWO | over))
    start = [sys.executable, "-m", "llamaforge", *words, "--json"]
    join = [sys.executable, "-m", "llamaforge.worker.many", str(program.directory("two").path)]
    leader = subprocess.Popen([*first, *start], stdout=subprocess.PIPE, env=program.environment)
    joined = subprocess.Popen([*second, *join], env=program.environment)
    try:
        output, _ = leader.communicate(timeout=240)
        assert leader.returncode == 0, program.logs()[-3000:]
        assert joined.wait(60) == 0
    finally:
        leader.kill()
        joined.kill()
    two = [json.loads(line) for line in output.splitlines()]
    assert losses(two) == pytest.approx(losses(one), abs=2e-4)
    require_alike(program, "two", "one")
