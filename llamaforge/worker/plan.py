"""`python -m llamaforge.worker.plan`: what a run would take, by trying some passes of its model.

A run spec stands on standard input as JSON. Answers follow on standard output as JSON lines:
`progress`, and last `report` or `error`. `runs.plans` is the other side.
"""

import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llamaforge import hardware, paths
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.gguf.header import Header
from llamaforge.gguf.llama_files import is_translated
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import Estimator, Seconds
from llamaforge.recipe.fit import Fit, largest_batch, largest_length
from llamaforge.recipe.preflight import check_disk, held_bytes, needs_of
from llamaforge.recipe.spec import RunSpec
from llamaforge.words import plural
from llamaforge.worker.row_sample import RowSample, sampled

if TYPE_CHECKING:
    from llamaforge.worker.estimating import Estimated

_LOW, _HIGH = 0.85, 1.2
"""Of the seconds that are estimated: what the aim of the estimate allows on both sides."""
_HASHED_BYTES_A_SECOND: Final = 700e6
"""The file is read twice before training: for its digest, and for values that are no numbers."""
_READ_BYTES_A_SECOND: Final = 8e9
"""Weights that a processor reads for each new token, where that was not tried."""
_PROOF_TOKENS: Final = 4096
_PROOF_PASSES: Final = 3
_FLOAT32_SLOWER: Final = 3.0
"""A forward pass in float32, as the proof does it, against one in bfloat16."""
_START_SECONDS: Final = 12.0
"""Starting the worker and loading its libraries, and the model three times."""
_PROMPT_TOKENS: Final = 48
_NEW_TOKENS: Final = 8


def main() -> int:
    """Answer the request on standard input, and return an exit code."""
    try:
        spec = RunSpec.model_validate_json(sys.stdin.buffer.read())
        _say("report", plan(spec))
    except LlamaForgeError as error:
        _say(
            "error",
            {
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "exit_code": int(error.exit_code),
            },
        )
        return int(error.exit_code)
    return int(ExitCode.DONE)


@dataclass(frozen=True)
class _Tried:
    """A phase of training, and what some passes showed of it."""

    spec: RunSpec
    """As if the phase were the only one."""
    sample: RowSample
    found: "Estimated | None"
    """None where not even one row at a time fits."""
    available: int
    trained: int
    """Weights that are trained."""
    refusal: dict[str, str] | None


def plan(spec: RunSpec) -> dict[str, Any]:
    """Return what the run would take, and with which settings it would be done.

    Raises:
        LlamaForgeError: the model or the rows cannot be read at all.
    """
    import torch

    from llamaforge.worker.devices import require_device

    header = read_model(spec.model.blob, spec.model.files)
    numbers = range(1, len(spec.phases) + 1)
    _say("progress", {"what": "rows"})
    samples = [sampled(spec.of_phase(number), header) for number in numbers]
    for phase in spec.phases:
        require_device(phase.training)
    # As many as one of the processes will have.
    torch.set_num_threads(max(1, hardware.physical_cores() // spec.launch.processes))
    tried = [
        _try(spec.of_phase(number), header, sample)
        for number, sample in zip(numbers, samples, strict=True)
    ]
    phases = [_figures(phase, header) for phase in tried]
    body = dict(phases[0])
    # Phases follow each other: the run takes as much memory as the one that takes most.
    largest = max(phases, key=lambda phase: int(phase["memory_bytes"]["total"]))
    body["memory_bytes"] = largest["memory_bytes"]
    body["available_bytes"] = largest["available_bytes"]
    body["disk_peak_bytes"] = needs_of(spec, header).disk
    if len(phases) > 1:
        body["phases"] = phases
        body["steps"] = _sum(phase["steps"] for phase in phases)
    body["seconds_by_part"] = _parts(spec, header, tried)
    body["seconds"] = _range(body["seconds_by_part"])
    body["problems"] = _problems(spec, header, tried)
    return body


def _try(spec: RunSpec, header: Header, sample: RowSample) -> _Tried:
    from llamaforge.worker.bases import load_to_train
    from llamaforge.worker.estimating import available_bytes, estimated

    _say("progress", {"what": "model"})
    loaded, model = load_to_train(spec, header, spec.training)
    _say("progress", {"what": "trial"})
    found, refusal = None, None
    try:
        found = estimated(
            loaded,
            model,
            header,
            spec.training,
            sample.sizes,
            held=held_bytes(spec, header),
            launch=spec.launch,
            thorough=True,
        )
    except RefusedError as error:
        if error.code != "no_memory":
            raise
        refusal = _problem(error)
    return _Tried(
        spec,
        sample,
        found,
        found.available if found else available_bytes(model.device, spec.launch),
        sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        refusal,
    )


def _estimator(tried: _Tried, header: Header) -> Estimator:
    if tried.found is not None:
        return tried.found.estimator
    spec = tried.spec
    return Estimator(
        header,
        spec.training,
        tried.trained,
        held_bytes=held_bytes(spec, header),
        launch=spec.launch,
    )


def _fit(tried: _Tried, header: Header) -> Fit:
    """Return what is done, or where nothing fits, the least that could be."""
    if tried.found is not None:
        return tried.found.fit
    smallest = Cut(1, _rows_of_one(tried.spec), gradient_checkpointing=True)
    estimator = _estimator(tried, header)
    return Fit(smallest, estimator.memory(smallest, tried.sample.sizes.longest), None)


def _figures(tried: _Tried, header: Header) -> dict[str, Any]:
    spec, rows = tried.spec, tried.sample.sizes
    settings, found, available = spec.training, tried.found, tried.available
    estimator, fit = _estimator(tried, header), _fit(tried, header)
    batch = largest_batch(estimator, rows, available)
    seconds = fit.seconds
    return {
        "memory_bytes": fit.memory.to_json(),
        "available_bytes": available,
        "seconds": None if seconds is None else _around(seconds),
        "settings": fit.cut.applied(settings).model_dump(mode="json")
        | {"max_length": spec.data.max_length, "effective_batch_size": _effective(spec)},
        "processes": spec.launch.world,
        "changed": fit.cut != Cut.of(settings),
        "largest": {
            "max_length": largest_length(estimator, available, spec.model.context_length),
            "per_device_train_batch_size": batch and batch.per_device_train_batch_size,
            "gradient_accumulation_steps": batch and batch.gradient_accumulation_steps,
            "gradient_checkpointing": batch and batch.gradient_checkpointing,
        },
        "steps": seconds and seconds.steps,
        "seconds_per_step": seconds and round(seconds.step, 3),
        "trainable_parameters": tried.trained,
        "rows": {
            "train": rows.train_rows,
            "validation": rows.validation_rows,
            "sampled": tried.sample.rendered,
            "longest_tokens": rows.longest_tokens,
            "mean_tokens": round(_mean(tokens for tokens, _ in rows.train)),
            "mean_trained_tokens": round(_mean(count for _, count in rows.train)),
        },
        "trial": None
        if found is None or found.estimator.trial is None
        else {
            "tokens": found.estimator.trial.tokens,
            "seconds": found.estimator.trial.seconds,
        },
    }


def _problems(spec: RunSpec, header: Header, tried: list[_Tried]) -> list[dict[str, str]]:
    """Return what stands against the run or should be known, each once."""
    problems = []
    try:
        check_disk(paths.runs_folder(), needs_of(spec, header).disk)
    except RefusedError as error:
        problems.append(_problem(error))
    for phase in tried:
        problems += [item for item in _problems_of(phase) if item not in problems]
    return problems


def _problems_of(tried: _Tried) -> list[dict[str, str]]:
    sample, settings = tried.sample, tried.spec.training
    problems = [] if tried.refusal is None else [tried.refusal]
    if sample.on_the_hub:
        problems.append(
            _warning(
                "hub_rows",
                "Datasets of the Hub are not downloaded for a plan: their rows are not counted.",
                "Fetch the rows into a file, or begin the run, which fetches them.",
            )
        )
    if sample.left_out:
        problems.append(
            _warning(
                "rows_left_out",
                f"Of {plural(sample.left_out + sample.rendered, 'row')} looked at, "
                f"{sample.left_out:,} cannot be used with this model.",
                "See which: llamaforge data check",
            )
        )
    if tried.found is not None and tried.found.fit.cut != Cut.of(settings):
        cut = tried.found.fit.cut
        problems.append(
            _warning(
                "fitted_to_memory",
                "The settings that were asked for do not fit into memory, so a step is done as "
                f"{plural(cut.per_device_train_batch_size, 'row')} × "
                f"{cut.gradient_accumulation_steps}"
                + (", with activations computed again" * cut.gradient_checkpointing)
                + ". What is learned is the same.",
                "Nothing has to be done; closing other programs may make it faster.",
            )
        )
    return problems


def _parts(spec: RunSpec, header: Header, tried: list[_Tried]) -> dict[str, list[float]]:
    """Return the seconds that each part of the run takes, low and high."""
    read = 2 * header.tensor_bytes / _HASHED_BYTES_A_SECOND
    rendered = sum(
        (phase.sample.sizes.train_rows + phase.sample.sizes.validation_rows)
        * phase.sample.seconds_a_row
        for phase in tried
    )
    prepare = read + rendered + _START_SECONDS
    parts = {"prepare": [prepare / 2, 2 * prepare]}
    known = [phase.found.fit.seconds for phase in tried if phase.found is not None]
    seconds = [found for found in known if found is not None]
    if len(seconds) < len(tried):
        return parts
    ranges = [_around(found) for found in seconds]
    parts["train"] = [sum(low for low, _ in ranges), sum(high for _, high in ranges)]
    last = tried[-1]  # its adapter is what is proven, on the rows that it held out
    _say("progress", {"what": "served"})
    a_prompt, a_new = _served_speed(header)
    parts["verify"] = _proof(last, a_prompt)
    parts["evaluate"] = _answers(spec, last.sample, a_prompt, a_new)
    return {name: [round(part, 1) for part in value] for name, value in parts.items()}


def _around(seconds: Seconds) -> list[float]:
    return [round(_LOW * seconds.total, 1), round(_HIGH * seconds.total, 1)]


def _proof(tried: _Tried, a_prompt: float) -> list[float]:
    """Return the seconds of the logits of held-out rows, in torch and in llama.cpp."""
    rows, settings = tried.sample.sizes, tried.spec.training
    assert tried.found is not None and tried.found.estimator.trial is not None  # noqa: S101, PT018
    trial = tried.found.estimator.trial
    held_out = rows.validation_rows or rows.train_rows
    proof = min(_PROOF_TOKENS, held_out * _mean(tokens for tokens, _ in rows.train))
    forward = proof * trial.forward_part * trial.seconds_a_token
    forward += held_out and trial.forward_part * trial.seconds_a_pass
    slower = _FLOAT32_SLOWER if settings.compute_dtype == "bfloat16" else 1.0
    proven = _PROOF_PASSES * (forward * slower + proof * a_prompt)
    return [proven / 2, 2 * proven]


def _answers(spec: RunSpec, sample: RowSample, a_prompt: float, a_new: float) -> list[float]:
    """Return the seconds of both models' answers: as long as the rows' own, or as they may be."""
    rows, settings = sample.sizes, spec.evaluation
    asked = min(settings.max_rows, rows.validation_rows)
    answer = _mean(count for _, count in rows.train)
    prompt = max(0.0, _mean(tokens for tokens, _ in rows.train) - answer) * a_prompt
    usual, most = min(answer, settings.max_new_tokens), settings.max_new_tokens
    return [
        asked * 2 * (prompt + usual * a_new) * _LOW,
        asked * (2 * prompt + (usual + most) * a_new) * _HIGH,
    ]


def _served_speed(header: Header) -> tuple[float, float]:
    """Return the seconds that llama.cpp takes for a token of a prompt, and for a new one."""
    from llamaforge.evaluation.llama import Server

    if is_translated(header):  # llama.cpp would need a copy first
        a_new = header.tensor_bytes / _READ_BYTES_A_SECOND
        return a_new / 4, a_new
    table = header.tensors.get("token_embd.weight")
    count = 1 if table is None else table.rows
    prompt = [number * 7919 % count for number in range(_PROMPT_TOKENS)]
    with Server(header.files, context=_PROMPT_TOKENS + _NEW_TOKENS + 1) as server:
        seconds = []
        for tokens in (1, 1, _NEW_TOKENS):  # the first reads the file's pages
            started = time.perf_counter()
            server.generate(
                prompt, max_new_tokens=tokens, end_ids=frozenset(), stopped=lambda: False
            )
            seconds.append(time.perf_counter() - started)
    _, short, long = seconds
    return short / _PROMPT_TOKENS, max(0.0, long - short) / (_NEW_TOKENS - 1)


def _range(parts: dict[str, list[float]]) -> list[int] | None:
    """Return the seconds of the whole run, low and high, or None where training has none."""
    if "train" not in parts:
        return None
    low, high = (sum(part[place] for part in parts.values()) for place in (0, 1))
    return [math.floor(low), math.ceil(high)]


def _effective(spec: RunSpec) -> int:
    """Return the rows of a step, those of all processes together."""
    return _rows_of_one(spec) * spec.launch.world


def _rows_of_one(spec: RunSpec) -> int:
    settings = spec.training
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def _mean(values: Iterable[int]) -> float:
    found = list(values)
    return sum(found) / max(len(found), 1)


def _problem(error: LlamaForgeError) -> dict[str, str]:
    return {"level": "stop", "code": error.code, "message": error.message, "fix": error.hint}


def _warning(code: str, message: str, fix: str) -> dict[str, str]:
    return {"level": "warn", "code": code, "message": message, "fix": fix}


def _say(kind: str, body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"type": kind} | body) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
