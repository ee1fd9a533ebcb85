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


def test_a_killed_rank_is_started_again_and_the_run_ends_right(
    program: Program, rows: Path
) -> None:
    program.run(*train_words(rows, "one", **ONE))
    program.run(*train_words(rows, "two", **TWO), "--detach")
    program.wait_for_step("two", 4)
    ranks = ranks_of(program, "two")
    assert len(ranks) == 2
    ranks[-1].kill()
    program.wait_until_over("two")
    shown = program.json("runs", "show", "two")
    assert shown["state"] == "finished", program.logs()[-3000:]
    found = [json.loads(line) for line in program.directory("two").events_file.open()]
    steps = [event["step"] for event in found if event["type"] == "step"]
    assert sorted(set(steps)) == list(range(1, 13))
    assert len(steps) > 12, "some steps were done again"
    require_alike(program, "two", "one")


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


def test_two_processes_follow_one_with_twice_the_accumulation_through_all_phases(
    program: Program, rows: Path, labelled: Path, tmp_path: Path
) -> None:
    """The first phase packs its rows, the second one learns from labels."""
    found = []
    for name, processes, accumulation in (("one", 1, 4), ("two", 2, 2)):
        usual = {
            "compute_dtype": "float32",
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": accumulation,
            "learning_rate": 1e-3,
            "lora_r": 4,
        }
        body = {
            "model": {"name": "llamaforge-demo", "store": str(paths.embedded_store())},
            "data": {"sources": [str(rows)]},
            "training": usual | {"max_steps": 4, "packing": True},
            "then": [
                {
                    "data": {"sources": [str(labelled)]},
                    "training": usual | {"method": "kto", "max_steps": 5},
                }
            ],
            "evaluation": {"fidelity_rows": 2, "max_rows": 3, "max_new_tokens": 2},
            "launch": {"processes": processes},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(body))
        found.append(program.events("train", str(path), "--name", name, "--yes"))
    one, two = found
    assert two[-1]["state"] == "finished"
    assert [event["seq"] for event in two] == list(range(1, len(two) + 1))
    for launch in [event["figures"] for event in two if event.get("kind") == "launch"]:
        assert "torch.distributed.run --nnodes=1 --nproc-per-node=2 --max-restarts=3" in " ".join(
            launch["command"].split()
        )
    evals = [[event["loss"] for event in run if event["type"] == "eval"] for run in found]
    assert evals[1] == pytest.approx(evals[0], abs=1e-3)
    assert len(evals[0]) == 3, "after the first phase, and around the second"
    steps = [(event["step"], event["total"]) for event in two if event["type"] == "step"]
    assert steps == [(n, 4) for n in range(1, 5)] + [(n, 9) for n in range(5, 10)]
    assert losses(two) == pytest.approx(losses(one), abs=3e-4)
    assert "not_packed" not in [event.get("code") for event in two]
    kto = [[event["metrics"] for event in run if event["type"] == "step"][4:] for run in found]
    assert kto[0][0]["kl"] == kto[1][0]["kl"] == 0.0, "the reference is the first phase"
    for ours, theirs in zip(kto[1], kto[0], strict=True):
        assert ours == pytest.approx(theirs, abs=3e-3)
    assert abs(kto[0][-1]["rewards/margins"]) > 0.01, "the model must have moved"
    report = json.loads((program.directory("two").artifacts / "evaluation.json").read_text())
    assert (report["labels"]["good"], report["labels"]["bad"]) > (0, 0)
    assert "answers that were not trained on were rewarded" in program.run("runs", "attach", "two")
    require_alike(program, "two", "one")
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
