"""`python -m llamaforge.worker.plan`: what a run would take, by trying some passes of its model.

A run spec stands on standard input as JSON. Answers follow on standard output as JSON lines:
`progress`, and last `report` or `error`. `runs.plans` is the other side.
"""

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llamaforge import hardware, paths
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.gguf.header import Header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import Estimator
from llamaforge.recipe.fit import Fit, largest_batch, largest_length
from llamaforge.recipe.preflight import check_disk, check_trackers, held_bytes, needs_of
from llamaforge.recipe.spec import RunSpec
from llamaforge.words import plural
from llamaforge.worker.plan_times import Tried, around, mean, seconds_by_part, whole_range
from llamaforge.worker.row_sample import RowSample, sampled

if TYPE_CHECKING:
    pass


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
    body["seconds_by_part"] = seconds_by_part(
        spec, header, tried, lambda: _say("progress", {"what": "served"})
    )
    body["seconds"] = whole_range(body["seconds_by_part"])
    body["problems"] = _problems(spec, header, tried)
    return body


def _try(spec: RunSpec, header: Header, sample: RowSample) -> Tried:
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
    return Tried(
        spec,
        sample,
        found,
        found.available if found else available_bytes(model.device, spec.launch),
        sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        refusal,
    )


def _estimator(tried: Tried, header: Header) -> Estimator:
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


def _fit(tried: Tried, header: Header) -> Fit:
    """Return what is done, or where nothing fits, the least that could be."""
    if tried.found is not None:
        return tried.found.fit
    smallest = Cut(1, _rows_of_one(tried.spec), gradient_checkpointing=True)
    estimator = _estimator(tried, header)
    return Fit(smallest, estimator.memory(smallest, tried.sample.sizes.longest), None)


def _figures(tried: Tried, header: Header) -> dict[str, Any]:
    spec, rows = tried.spec, tried.sample.sizes
    settings, found, available = spec.training, tried.found, tried.available
    estimator, fit = _estimator(tried, header), _fit(tried, header)
    batch = largest_batch(estimator, rows, available)
    seconds = fit.seconds
    return {
        "memory_bytes": fit.memory.to_json(),
        "available_bytes": available,
        "seconds": None if seconds is None else around(seconds),
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
            "mean_tokens": round(mean(tokens for tokens, _ in rows.train)),
            "mean_trained_tokens": round(mean(count for _, count in rows.train)),
        },
        "trial": None
        if found is None or found.estimator.trial is None
        else {
            "tokens": found.estimator.trial.tokens,
            "seconds": found.estimator.trial.seconds,
        },
    }


def _problems(spec: RunSpec, header: Header, tried: list[Tried]) -> list[dict[str, str]]:
    """Return what stands against the run or should be known, each once."""
    problems = []
    try:
        check_disk(paths.runs_folder(), needs_of(spec, header).disk)
    except RefusedError as error:
        problems.append(_problem(error))
    try:
        check_trackers(spec)
    except RefusedError as error:
        problems.append(_problem(error))
    for phase in tried:
        problems += [item for item in _problems_of(phase) if item not in problems]
    return problems


def _problems_of(tried: Tried) -> list[dict[str, str]]:
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


def _problem(error: LlamaForgeError) -> dict[str, str]:
    return {"level": "stop", "code": error.code, "message": error.message, "fix": error.hint}


def _warning(code: str, message: str, fix: str) -> dict[str, str]:
    return {"level": "warn", "code": code, "message": message, "fix": fix}


def _say(kind: str, body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"type": kind} | body) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
