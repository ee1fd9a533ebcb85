"""Publishing what a run made: its verified adapter, or one file with both merged."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.names import parse_digest, parse_name
from llamaforge.catalog.store import Store
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError
from llamaforge.gguf.header import read_header
from llamaforge.publishing.ollama import publish, require_free_name
from llamaforge.publishing.request import Companion, MergedFile, PublishRequest, PublishResult
from llamaforge.publishing.server import Limits, Progress
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.proof import require_proof
from llamaforge.safe_text import safe_line

_LIMITS: Final = Limits()
_VERSION: Final = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]+(?:[-+][0-9A-Za-z.+-]*)?")


def publish_run(
    run: RunDirectory,
    name: str,
    *,
    on_progress: Progress,
    host: str | None = None,
    overwrite: bool = False,
    allow_remote: bool = False,
    merged: MergedFile | None = None,
    limits: Limits = _LIMITS,
) -> PublishResult:
    """Publish what the run made under `name`; the changes are noted in the run's journal.

    The caller holds the run's lock.

    Raises:
        UsageError, RefusedError, NotFoundError, LlamaForgeError: as `run_request` and `publish`.
    """
    request = run_request(
        run, name, host=host, overwrite=overwrite, allow_remote=allow_remote, merged=merged
    )
    return publish(request, journal=run.journal_file, on_progress=on_progress, limits=limits)


def check_before_merging(
    run: RunDirectory,
    name: str,
    *,
    overwrite: bool = False,
    allow_remote: bool = False,
    limits: Limits = _LIMITS,
) -> None:
    """Return if nothing is known that would refuse a merged file, which takes long to write.

    Raises:
        UsageError, RefusedError, NotFoundError, LlamaForgeError: as `publish_run`.
    """
    request = run_request(run, name, overwrite=overwrite, allow_remote=allow_remote)
    _stored(request, RunSpec.load(run.spec_file))
    require_free_name(request, journal=run.journal_file, limits=limits)


def run_request(
    run: RunDirectory,
    name: str,
    *,
    host: str | None = None,
    overwrite: bool = False,
    allow_remote: bool = False,
    merged: MergedFile | None = None,
) -> PublishRequest:
    """Return what publishing the run under `name` asks of the server.

    What is published is the run's adapter, or instead of it the file `merged`; a run that makes
    no adapter has made such a file itself.

    Raises:
        NotFoundError: the run has no adapter; or `merged` is given and the store no longer has
            the model, from which it takes its template.
        RefusedError: the adapter is not verified, or the verification failed; or `merged` is
            given and the store has another model under that name by now (`other_base`).
    """
    spec = RunSpec.load(run.spec_file)
    kind = "adapter" if spec.training.makes_adapter else "merged"
    name_of = {"adapter": None, "merged": spec.publish.merged_name}[kind]
    adapter = next(
        (
            item
            for item in run.artifact_list()
            if item["kind"] == kind and name_of in {None, Path(item["path"]).name}
        ),
        None,
    )
    if adapter is None:
        raise NotFoundError(
            f"The run {run.id} has no {'adapter' if kind == 'adapter' else 'merged file'}.",
            f"Let it finish: llamaforge runs resume {run.id}",
            code="no_adapter",
        )
    require_proof(run)
    request = PublishRequest(
        name=name,
        base=spec.model.name,
        base_blob_digest=spec.model.digest,
        file=Path(adapter["path"]),
        file_sha256=adapter["sha256"],
        base_has_adapters=_has_other_adapters(spec, adapter["sha256"]),
        host=host,
        overwrite=overwrite,
        allow_remote=allow_remote,
    )
    if merged is None and kind == "merged":
        merged = MergedFile(request.file, request.file_sha256)
    return request if merged is None else _with_merged(request, merged, spec)


def _stored(request: PublishRequest, spec: RunSpec) -> StoredModel:
    """Return the model that was trained as the store has it.

    Raises:
        NotFoundError: there is none of that name.
        RefusedError: it has other weights by now, so that its template may be another one too.
    """
    stored = Store.open(spec.model.store).find(request.base)
    overwritten = request.overwrite and parse_name(request.name) == parse_name(request.base)
    has = stored.blob_digest
    if has and not overwritten and has != parse_digest(request.base_blob_digest):
        raise RefusedError(
            f"{safe_line(request.base)} in the store is another file than the one that was "
            "trained, so template and parameters of that one are not known.",
            "Train on the model as it is now.",
            code="other_base",
        )
    return stored


def _with_merged(request: PublishRequest, merged: MergedFile, spec: RunSpec) -> PublishRequest:
    """Return the request with the merged file, and all that the model itself has beside weights."""
    stored = _stored(request, spec)
    projectors, drafts = _companions(stored, "projector"), _companions(stored, "draft")
    # A server takes a projector for one by what its header says; it would take others for weights.
    sent = tuple(item for item in projectors if _is_projector(item.path))
    return replace(
        request,
        form="gguf",
        file=merged.path,
        file_sha256=merged.sha256,
        template=stored.template,
        system=stored.system,
        parameters=stored.parameters or None,
        messages=stored.messages or None,
        licenses=stored.licenses,
        renderer=_word(stored.config.get("renderer")),
        parser=_word(stored.config.get("parser")),
        projectors=sent,
        drafts=drafts,
        requires=_version(stored.config.get("requires")),
        left_out=("projector",) if sent != projectors else (),
    )


def _companions(stored: StoredModel, kind: str) -> tuple[Companion, ...]:
    """Return the files of a kind that a model has beside its weights."""
    paths = {"projector": stored.projectors, "draft": stored.drafts}[kind]
    digests = [layer.digest for layer in stored.layers if layer.kind == kind]
    return tuple(Companion(path, digest) for path, digest in zip(paths, digests, strict=False))


def _is_projector(path: Path) -> bool:
    """Source: `isProjectorGGUF` in `server/create.go` of Ollama."""
    try:
        header = read_header(path)
    except LlamaForgeError:
        return False
    if header.get("general.type") in {"projector", "mmproj"}:
        return True
    if header.own("block_count", 0):
        return False
    encodes = header.own("has_vision_encoder") or header.own("has_audio_encoder")
    return bool(header.own("vision.block_count", 0)) or (
        header.architecture == "clip" and bool(encodes)
    )


def _version(value: object) -> str | None:
    """Return a version that a server takes as one."""
    word = _word(value)
    return word if word and _VERSION.fullmatch(word) else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _has_other_adapters(spec: RunSpec, own: str) -> bool:
    """Return whether the store says that the base carries adapters, the run's own left out.

    It has that one where the run was published under the base's own name. The server is asked too:
    a store that is gone or cannot be read by now stops nothing here.
    """
    try:
        found = Store.open(spec.model.store).find(spec.model.name).adapters
    except LlamaForgeError:
        return False
    return any(adapter.digest != own for adapter in found)
