"""How long the parts of a run take, by what some passes of its model showed."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamaforge.gguf.header import Header
from llamaforge.gguf.llama_files import is_translated
from llamaforge.recipe.estimate import Seconds
from llamaforge.recipe.spec import RunSpec
from llamaforge.worker.row_sample import RowSample

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


@dataclass(frozen=True)
class Tried:
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


def seconds_by_part(
    spec: RunSpec, header: Header, tried: list[Tried], on_served: Callable[[], None]
) -> dict[str, list[float]]:
    """Return the seconds that each part of the run takes, low and high.

    Without `train` and what follows it where a phase does not fit into memory. `on_served` is told
    before llama.cpp is tried.
    """
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
    ranges = [around(found) for found in seconds]
    ranges += [_probes(spec, phase) for phase in tried]
    parts["train"] = [sum(low for low, _ in ranges), sum(high for _, high in ranges)]
    last = tried[-1]  # its adapter is what is proven, on the rows that it held out
    on_served()
    a_prompt, a_new = _served_speed(header)
    parts["verify"] = _proof(last, a_prompt)
    parts["evaluate"] = _answers(spec, last.sample, a_prompt, a_new)
    return {name: [round(part, 1) for part in value] for name, value in parts.items()}


def _probes(spec: RunSpec, tried: Tried) -> list[float]:
    """Return the seconds of the answers to probe prompts: ended early, or as long as they may be.

    Each new token is a pass of its own. The untrained model answers too, the first time.
    """
    asked = spec.evaluation
    if not asked.probe_prompts or tried.found is None or not tried.sample.sizes.validation_rows:
        return [0.0, 0.0]
    trial, seconds = tried.found.estimator.trial, tried.found.fit.seconds
    assert trial is not None and seconds is not None  # noqa: S101, PT018 - training has a range
    a_token = trial.forward_part * (trial.seconds_a_pass + trial.seconds_a_token)
    once = len(asked.probe_prompts) * asked.probe_max_new_tokens * a_token
    times = math.ceil(seconds.steps / tried.spec.training.eval_steps) + 1
    return [times * min(once / 4, asked.probe_seconds), times * min(once, asked.probe_seconds)]


def around(seconds: Seconds) -> list[float]:
    """Return how long training takes at least and at most, in seconds."""
    return [round(_LOW * seconds.total, 1), round(_HIGH * seconds.total, 1)]


def _proof(tried: Tried, a_prompt: float) -> list[float]:
    """Return the seconds of the logits of held-out rows, in torch and in llama.cpp."""
    rows, settings = tried.sample.sizes, tried.spec.training
    assert tried.found is not None and tried.found.estimator.trial is not None  # noqa: S101, PT018
    trial = tried.found.estimator.trial
    held_out = rows.validation_rows or rows.train_rows
    proof = min(_PROOF_TOKENS, held_out * mean(tokens for tokens, _ in rows.train))
    forward = proof * trial.forward_part * trial.seconds_a_token
    forward += held_out and trial.forward_part * trial.seconds_a_pass
    slower = _FLOAT32_SLOWER if settings.compute_dtype == "bfloat16" else 1.0
    proven = _PROOF_PASSES * (forward * slower + proof * a_prompt)
    return [proven / 2, 2 * proven]


def _answers(spec: RunSpec, sample: RowSample, a_prompt: float, a_new: float) -> list[float]:
    """Return the seconds of both models' answers: as long as the rows' own, or as they may be."""
    rows, settings = sample.sizes, spec.evaluation
    asked = min(settings.max_rows, rows.validation_rows)
    answer = mean(count for _, count in rows.train)
    prompt = max(0.0, mean(tokens for tokens, _ in rows.train) - answer) * a_prompt
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


def whole_range(parts: dict[str, list[float]]) -> list[int] | None:
    """Return the seconds of the whole run, low and high, or None where training has none."""
    if "train" not in parts:
        return None
    low, high = (sum(part[place] for part in parts.values()) for place in (0, 1))
    return [math.floor(low), math.ceil(high)]


def mean(values: Iterable[int]) -> float:
    """Return the mean of `values`, 0 where there are none."""
    found = list(values)
    return sum(found) / max(len(found), 1)
