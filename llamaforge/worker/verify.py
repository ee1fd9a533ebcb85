"""Stage 4: the proof that what is served is what was trained."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from llamaforge.catalog.store import Store
from llamaforge.data.encoding import EncodedRecord, EncodedSplits
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.files import write_atomic
from llamaforge.gguf.model_file import read_model
from llamaforge.runs import events
from llamaforge.worker.artifacts import (
    add_artifact,
    add_report,
    artifact_path,
    has_artifact,
    result_digest,
)
from llamaforge.worker.job import Job
from llamaforge.worker.loading import load_libraries
from llamaforge.worker.log import log
from llamaforge.worker.memory import memory_shortage, shortage_words, unproven
from llamaforge.worker.sampling import spread
from llamaforge.worker.train import final_checkpoint

if TYPE_CHECKING:
    from llamaforge.evaluation.fidelity import Fidelity, FidelityRow, TrainedModel
    from llamaforge.evaluation.llama import Server
    from llamaforge.evaluation.pair import ServedPair

_ENOUGH_TOKENS: Final = 4096
"""Each is computed three times in float32 in torch: minutes for a model of some billion weights."""
_LEAST_ROWS: Final = 4


def is_verified(job: Job) -> bool:
    """Return whether what is there passed the proof."""
    if not has_artifact(job, "verify"):
        return False
    report = json.loads(artifact_path(job, "verify").read_text(encoding="utf-8"))
    return bool(report["passed"])


@contextmanager
def serve(job: Job, context: int) -> "Iterator[Server | ServedPair]":
    """Give what llama.cpp serves of the run: the adapter over the file, or the merged file."""
    from llamaforge.evaluation.llama import Server
    from llamaforge.evaluation.pair import ServedPair

    with job.llama_files() as files:
        if job.spec.training.makes_adapter:
            adapter = artifact_path(job, "adapter")
            with Server(files, context=context, adapter=adapter) as server:
                yield server
        else:
            merged = read_model(artifact_path(job, "merged"))
            with (
                job.llama_files(merged) as tuned,
                ServedPair(files, tuned, context=context) as pair,
            ):
                yield pair


def proof_rows(rows: EncodedSplits, most: int) -> list[EncodedRecord]:
    """Return the rows that are compared, at most `most`: held-out ones, where there are any."""
    return _few(spread(rows.held_out or rows.train, most))


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
        LlamaForgeError: it does not (`not_faithful`); the figures are in `verify.json`. Or memory
            ran out on the way (`unproven`): what was trained is there all the same.
    """
    try:
        _prove(job)
    except LlamaForgeError as error:
        if error.code != "out_of_memory":
            raise
        raise unproven(job.run.id, shortage_words("allocation")) from error
    except (RuntimeError, MemoryError, OSError) as error:
        shortage = memory_shortage(error)
        if shortage is None:
            raise
        log(f"{type(error).__name__}: {error}")
        raise unproven(job.run.id, shortage_words(shortage)) from error


def _prove(job: Job) -> None:
    load_libraries()
    from llamaforge.evaluation.fidelity import FidelityRow

    encoded = job.conversations().rows
    chosen = proof_rows(encoded, job.spec.evaluation.fidelity_rows)
    rows = [FidelityRow(item.row.ids, item.row.trained) for item in chosen]
    if job.spec.model.full is None:
        figures = _over_the_file(job, rows).to_json()
    else:
        figures = _over_the_base(job, rows)
    figures |= {"rows_from": "held out" if encoded.held_out else "train"}
    job.emit(events.Report(kind="fidelity", figures=figures))
    job.note(kl_mean=figures["kl_mean"])
    add_report(job, "verify", "verify.json", figures)
    if not figures["passed"]:
        raise not_proven(figures, job.spec.training.learning_rate)
    _write_modelfile(job)


def not_proven(figures: Mapping[str, Any], learning_rate: float) -> LlamaForgeError:
    """Return why a result whose proof has these figures is not to be used.

    Weights may be numbers and yet so large that llama.cpp, which computes with fewer digits, gets
    none out of them.
    """
    if figures.get("loss_served") is None and figures.get("loss_base") is not None:
        return LlamaForgeError(
            "With what was trained, llama.cpp computes values that are no numbers: training has "
            "diverged.",
            "Start again with a lower rate, for example: --set learning_rate="
            f"{learning_rate / 10:g}",
            code="diverged",
        )
    return LlamaForgeError(
        f"The exported file is not what was trained: {figures['reason']}.",
        "Do not use it; report this with the run's verify.json.",
        code="not_faithful",
    )


def _over_the_file(job: Job, rows: "Sequence[FidelityRow]") -> "Fidelity":
    """Hold the packed model in torch against the adapter over the file in llama.cpp."""
    from llamaforge.worker.trained import load_trained

    trained = load_trained(job.header, job.spec.training, final_checkpoint(job.run))
    return _measured(job, trained, rows, done=0, total=len(rows))


def _over_the_base(job: Job, rows: "Sequence[FidelityRow]") -> dict[str, Any]:
    """Hold the full-precision model in torch against what llama.cpp serves.

    An adapter is served over the file's blocks, which are not what it was trained on. What that
    costs is measured; that the adapter itself is right is measured over the unpacked blocks.
    """
    from llamaforge.evaluation.fidelity import Fidelity
    from llamaforge.export.learned import factors_over, read_learned
    from llamaforge.worker.trained import lay_over
    from llamaforge.worker.trained_base import load_trained_base

    model, settings = job.spec.model, job.spec.training
    full = model.full
    assert full is not None  # noqa: S101 - only runs on a base come here
    learned = artifact_path(job, "learned")
    passes = 2 if settings.makes_adapter else 1
    trained = load_trained_base(job.header, full, settings, learned)
    whole = _measured(job, trained, rows, done=0, total=passes * len(rows))
    del trained  # before the next model is loaded
    adapter: Fidelity | None = None
    if settings.makes_adapter:
        layers = factors_over(job.header, read_learned(learned, settings))
        packed = lay_over(job.header, settings, layers)
        adapter = _measured(job, packed, rows, done=len(rows), total=passes * len(rows))
    reason = whole.reason or (adapter.reason if adapter else "")
    return whole.to_json() | {
        "passed": not reason,
        "reason": reason,
        "trained_on": {"base": "hub", "repo": full.repo, "revision": full.revision},
        "served_as": "adapter" if adapter else "merged",
        "adapter": adapter.to_json() if adapter else None,
        "file_sha256": result_digest(job),
    }


def _measured(
    job: Job, trained: "TrainedModel", rows: "Sequence[FidelityRow]", *, done: int, total: int
) -> "Fidelity":
    from llamaforge.evaluation.fidelity import measure_fidelity

    def on_row(count: int) -> None:
        job.progress("verify", done + count, total, "rows")
        job.check_stop()

    with serve(job, job.max_length) as served:
        return measure_fidelity(trained, served, rows, on_row)


def _write_modelfile(job: Job) -> None:
    from llamaforge.export.modelfile import modelfile_over, modelfile_text

    path = job.run.artifacts / "Modelfile"
    model = job.spec.model
    try:
        if job.spec.training.makes_adapter:
            text = modelfile_over(model, artifact_path(job, "adapter"))
        else:
            stored = Store.open(model.store).find(model.name)
            text = modelfile_text(
                artifact_path(job, "merged"),
                None,
                template=stored.template,
                system=stored.system,
                parameters=stored.parameters,
                messages=stored.messages or (),
            )
        write_atomic(path, text)
    except LlamaForgeError as error:
        if job.spec.training.makes_adapter and not isinstance(error, RefusedError):
            raise
        job.warn(error.code, f"{error.message} {error.hint}")
    else:
        add_artifact(job, "modelfile", path)
