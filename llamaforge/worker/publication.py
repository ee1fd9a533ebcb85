"""How a run's result goes to Ollama: as its adapter or, where the server takes none, merged."""

from collections.abc import Callable
from typing import Final, Literal

from llamaforge.errors import RefusedError, UsageError
from llamaforge.export.importance_run import importance_of
from llamaforge.export.merged_run import merge_run
from llamaforge.publishing.request import MergedFile, PublishResult
from llamaforge.publishing.run import check_before_merging, publish_run
from llamaforge.publishing.server import Limits, Progress
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory

Way = Literal["auto", "adapter", "gguf"]
"""`auto` tries the adapter, and writes a merged file where the server takes no adapters."""

_LIMITS: Final = Limits()
_NO_FILE_TYPE: Final = "F32"
"""Its number is 0, which Ollama takes for a file that does not say its type."""


def publish_as(
    run: RunDirectory,
    name: str,
    way: Way,
    *,
    on_progress: Progress,
    quantization: str | None = None,
    imatrix: bool = False,
    overwrite: bool = False,
    allow_remote: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    limits: Limits = _LIMITS,
) -> PublishResult:
    """Publish the run's result under `name`; the caller holds the run's lock.

    Args:
        run: a finished run.
        name: the new Ollama name.
        way: what is published.
        on_progress: takes what is done (`measure`, `merge`, `check`, `upload`, `load`,
            `adapters_unsupported` where a merged file is begun for that, or the server's words),
            how much of it, and the whole.
        quantization: of the merged file; None keeps the type of every tensor.
        imatrix: whether an importance matrix is measured for the merged file.
        overwrite: replace a model that has the name.
        allow_remote: send it to a server on another machine.
        stopped: asked while a merged file is written; True ends it.
        limits: how long the server may take.

    Raises:
        LlamaForgeError: as `publish_run` and `merge_run`; or merging would lose more than was
            learned (`lossy_merge`).
    """
    spec = RunSpec.load(run.spec_file)
    if not spec.training.makes_adapter:
        if way == "adapter":
            raise UsageError(
                f"The run {run.id} has no adapter that a server could take.",
                "Say --as gguf, or leave --as out.",
                code="no_adapter",
            )
        way = "gguf"
    quantization = quantization or spec.publish.quantization
    if way != "gguf":
        try:
            return publish_run(
                run,
                name,
                on_progress=on_progress,
                overwrite=overwrite,
                allow_remote=allow_remote,
                limits=limits,
            )
        except RefusedError as error:
            if way == "adapter" or error.code != "adapters_unsupported":
                raise
            on_progress(error.code, 0, 0)
    check_before_merging(run, name, overwrite=overwrite, allow_remote=allow_remote, limits=limits)
    return publish_run(
        run,
        name,
        merged=merged_for_ollama(run, quantization, on_progress, stopped, imatrix=imatrix),
        on_progress=on_progress,
        overwrite=overwrite,
        allow_remote=allow_remote,
        limits=limits,
    )


def merged_for_ollama(
    run: RunDirectory,
    quantization: str | None,
    on_progress: Progress,
    stopped: Callable[[], bool] = lambda: False,
    *,
    imatrix: bool = False,
) -> MergedFile:
    """Return the run's merged file, written now unless it is there.

    Raises:
        UsageError: Ollama takes no file of that quantisation.
        LlamaForgeError: as `publish_as`.
    """
    if quantization is not None and quantization.upper() == _NO_FILE_TYPE:
        raise UsageError(
            "Ollama takes no file of which all weights are F32.",
            "Choose another --quant, such as BF16 or F16.",
            code="quantization",
        )
    if quantization is None and RunSpec.load(run.spec_file).model.quantization == _NO_FILE_TYPE:
        quantization = "F16"
    importance = None
    if imatrix:
        importance = importance_of(run, lambda done, total: on_progress("measure", done, total))
    made = merge_run(
        run,
        quantization=quantization,
        reuse=True,
        importance=importance,
        on_progress=lambda done, total: on_progress("merge", done, total),
        on_check=lambda: on_progress("check", 0, 0),
        stopped=stopped,
    )
    if made.loses_what_was_learned:
        raise RefusedError(
            f"Packing the merged weights anew changes the answers by {made.check['kl_mean']:.2g} "
            f"nats a token, and training changed them by {made.check['kl_base_mean']:.2g}: what "
            "was learned would be lost.",
            "Choose a finer type, such as --as gguf --quant Q8_0; the file is larger then.",
            code="lossy_merge",
        )
    return MergedFile(made.merged.path, made.merged.sha256)
