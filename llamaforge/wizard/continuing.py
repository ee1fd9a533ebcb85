"""Going on from the adapter of an earlier run: what of that run is needed, and what has to fit."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from llamaforge.errors import InvalidFileError, NotFoundError, RefusedError
from llamaforge.files import commit, sha256_of
from llamaforge.recipe.resolve import ModelFacts
from llamaforge.recipe.spec import RunSpec, StartAdapter
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs.base_digests import check_same_base, digest_of_link, read_digests
from llamaforge.runs.directory import RunDirectory, open_run
from llamaforge.safe_text import safe_line
from llamaforge.training.checkpoints import step_of
from llamaforge.training.finished import ADAPTER_FILE, finished_checkpoint, finished_steps


@dataclass(frozen=True)
class EarlierAdapter:
    """What an earlier run learned."""

    start: StartAdapter
    training: TrainingSettings
    """How it was trained."""
    file: Path


def earlier_adapter(name: str, facts: ModelFacts) -> EarlierAdapter:
    """Return the adapter of the run `name`, which has to be one over the model of `facts`.

    Raises:
        NotFoundError: there is no such run.
        RefusedError: it was trained on another model or base (`other_base`), has not finished its
            training (`not_trained`), did not pass its proof (`not_verified`), or made no adapter
            (`no_adapter`).
        InvalidFileError: its last checkpoint is damaged (`bad_checkpoint`).
    """
    run = open_run(name)
    spec = RunSpec.load(run.spec_file)
    if spec.model.digest != facts.digest:
        raise RefusedError(
            f"The adapter of the run {run.id} belongs to other weights than this model's: "
            f"{safe_line(spec.model.name)} with the digest {spec.model.digest[7:19]}.",
            f"Go on with the same model: --model {safe_line(spec.model.name)}",
            code="other_base",
        )
    run.check_proof()
    if facts.full is not None:
        folder = facts.full.folder
        check_same_base(run, {name: digest_of_link(folder / name) for name in read_digests(run)})
    last = len(spec.phases)
    training = spec.phases[-1].training
    if not training.use_peft:
        raise RefusedError(
            f"The run {run.id} trained every weight and has no adapter to go on from.",
            "Name a run that trained an adapter.",
            code="no_adapter",
        )
    folder = run.of_phase(last).checkpoints
    checkpoint = finished_checkpoint(folder)
    if checkpoint is None:
        raise _nothing_there(run, is_over=finished_steps(folder) is not None)
    file = checkpoint / ADAPTER_FILE
    start = StartAdapter(run=run.id, step=step_of(checkpoint), sha256=sha256_of(file))
    return EarlierAdapter(start, training, file)


def take_adapter(file: Path, start: StartAdapter, run: RunDirectory) -> None:
    """Copy the adapter into the folder of the run that goes on from it.

    Raises:
        NotFoundError: it was removed meanwhile.
        InvalidFileError: it changed meanwhile.
    """
    temporary = run.start_file.with_suffix(".tmp")
    try:
        shutil.copyfile(file, temporary)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"The run {start.run} was removed meanwhile.", "Name another one.", code="no_run"
        ) from error
    if sha256_of(temporary) != start.sha256:
        raise InvalidFileError(
            f"The adapter of the run {start.run} changed meanwhile.", "Try again.", code="bad_start"
        )
    temporary.chmod(0o600)
    commit(temporary, run.start_file)


def _nothing_there(run: RunDirectory, *, is_over: bool) -> RefusedError | InvalidFileError:
    if is_over:
        return InvalidFileError(
            f"The last checkpoint of the run {run.id} is damaged.",
            f"Train on from the one before: llamaforge runs resume {run.id}",
            code="bad_checkpoint",
        )
    return RefusedError(
        f"The run {run.id} has not finished its training.",
        f"Finish it first: llamaforge runs resume {run.id}",
        code="not_trained",
    )
