"""Stage 4: the proof that what is served is what was trained."""

import json
from itertools import accumulate
from typing import Final

from llamaforge.data.encoding import EncodedRecord
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.files import write_atomic
from llamaforge.runs import events
from llamaforge.worker.artifacts import add_artifact, add_report, artifact_path, has_artifact
from llamaforge.worker.job import Job
from llamaforge.worker.sampling import spread
from llamaforge.worker.train import final_checkpoint

_ENOUGH_TOKENS: Final = 4096
"""Each is computed three times in float32 in torch: minutes for a model of some billion weights."""
_LEAST_ROWS: Final = 4


def is_verified(job: Job) -> bool:
    """Return whether the adapter that is there passed the proof."""
    if not has_artifact(job, "verify"):
        return False
    report = json.loads(artifact_path(job, "verify").read_text(encoding="utf-8"))
    return bool(report["passed"])


def _few(items: list[EncodedRecord]) -> list[EncodedRecord]:
    """Return the first of `items` with some thousand tokens together, and four at least."""
    tokens = list(accumulate(len(item.row.ids) for item in items))
    return [
        item
        for number, (item, before) in enumerate(zip(items, [0, *tokens], strict=False))
        if number < _LEAST_ROWS or before < _ENOUGH_TOKENS
    ]


def verify(job: Job) -> None:
    """Prove that llama.cpp serves what was trained.

    Raises:
        LlamaForgeError: it does not (`not_faithful`); the figures are in `verify.json`.
    """
    from llamaforge.evaluation.fidelity import FidelityRow, measure_fidelity
    from llamaforge.evaluation.llama import Server
    from llamaforge.export.modelfile import modelfile_over
    from llamaforge.worker.trained import load_trained

    rows = job.conversations().rows
    chosen = _few(spread(rows.held_out or rows.train, job.spec.evaluation.fidelity_rows))
    adapter = artifact_path(job, "adapter")
    trained = load_trained(job.header, job.spec.training, final_checkpoint(job))

    def on_row(done: int) -> None:
        job.progress("verify", done, len(chosen), "rows")
        job.check_stop()

    with (
        job.llama_files() as files,
        Server(files, context=job.max_length, adapter=adapter) as server,
    ):
        fidelity = measure_fidelity(
            trained,
            server,
            [FidelityRow(item.row.ids, item.row.trained) for item in chosen],
            on_row,
        )
    figures = fidelity.to_json() | {"rows_from": "held out" if rows.held_out else "train"}
    job.emit(events.Report(kind="fidelity", figures=figures))
    job.note(kl_mean=figures["kl_mean"])
    add_report(job, "verify", "verify.json", figures)
    if not fidelity.passed:
        raise LlamaForgeError(
            f"The exported adapter is not what was trained: {fidelity.reason}.",
            "Do not use it; report this with the run's verify.json.",
            code="not_faithful",
        )
    path = job.run.artifacts / "Modelfile"
    try:
        write_atomic(path, modelfile_over(job.spec.model, adapter))
    except RefusedError as error:
        job.warn(error.code, f"{error.message} {error.hint}")
    else:
        add_artifact(job, "modelfile", path)
