"""From a recipe to a run's directory: what the command line and the screens do alike."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from llamaforge import paths
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.names import parse_name
from llamaforge.data.check import first_problem
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.preflight import Needs, check_disk, check_memory, needs_of
from llamaforge.recipe.resolve import ModelFacts, resolve
from llamaforge.recipe.spec import FurtherPart, Recipe, RunSpec
from llamaforge.runs.directory import RunDirectory, check_run_name, create_run
from llamaforge.safe_text import safe_line

_NAME_CHARACTERS: Final = 45
"""Of a model's name in a run's: with a date and a number it stays within 64."""


def _silent(note: LlamaForgeError) -> None:
    del note


@dataclass(frozen=True)
class Prepared:
    """A run that passed every check and of which nothing is written yet."""

    spec: RunSpec
    """With the run's name as it was asked for; it may still get a number."""
    needs: Needs
    numbered: bool
    """Whether a name that is taken gets a number."""


def prepare(
    recipe: Recipe,
    *,
    store: Path | None,
    numbered: bool,
    on_note: Callable[[LlamaForgeError], None] = _silent,
) -> Prepared:
    """Check everything that can be checked before a run exists, and resolve the recipe.

    What training on this machine takes is only checked roughly; `planning.plan_of` measures it.

    Args:
        recipe: what to do.
        store: outranks the recipe's store.
        numbered: whether a run's name that is taken gets a number.
        on_note: takes what could not be looked at besides.

    Raises:
        NotFoundError: there is no such store, model or data file.
        UsageError: a name or a setting has no meaning.
        RefusedError: the model or the rows cannot be trained on, or the machine is too small.
    """
    spec = resolved(recipe, store=store, on_note=on_note)
    needs = needs_of(spec, read_model(spec.model.blob, spec.model.files))
    check_memory(needs.memory)
    check_disk(paths.runs_folder(), needs.disk)
    return Prepared(spec, needs, numbered or recipe.name is None)


def resolved(
    recipe: Recipe, *, store: Path | None, on_note: Callable[[LlamaForgeError], None] = _silent
) -> RunSpec:
    """Return the run spec of a recipe whose model and rows can be trained on.

    Raises:
        NotFoundError: there is no such store, model or data file.
        UsageError: a name or a setting has no meaning.
        RefusedError: the model or the rows cannot be trained on.
    """
    name = recipe.name or automatic_name(recipe.model.name)
    check_run_name(name)
    if recipe.publish.name is not None:
        parse_name(recipe.publish.name)
    chosen = store or recipe.model.store
    found = Inventory.open((chosen.expanduser().absolute(),) if chosen else ())
    for note in found.problems:
        on_note(note)
    model = found.require_trainable(recipe.model.name)
    facts = facts_of(model)
    spec = resolve(recipe, facts, name)
    if spec.data.snapshot is None:
        data = spec.data
        first_problem(data.sources, data.max_rejected_fraction, data.choices, data.split_seed)
    return spec


def create(prepared: Prepared) -> RunDirectory:
    """Make the run's directory; it is a run once its spec is in it, which comes last.

    Raises:
        UsageError: the name is taken.
        RefusedError: the folder of the runs cannot be written to.
    """
    try:
        run = create_run(prepared.spec.run, numbered=prepared.numbered)
    except OSError as error:
        raise RefusedError(
            f"The folder {safe_line(str(paths.runs_folder()))} cannot be written to: "
            f"{error.strerror}.",
            "Set LLAMAFORGE_HOME to a folder of your own.",
            code="home_not_writable",
        ) from error
    try:
        prepared.spec.model_copy(update={"run": run.id}).save(run.spec_file)
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def automatic_name(model: str) -> str:
    """Return a run's name made of the model's name and today's date."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rsplit("/", 1)[-1])
    plain = plain.strip("-._")[:_NAME_CHARACTERS] or "run"
    return f"{plain}-{datetime.now().astimezone():%Y-%m-%d}"


def facts_of(model: StoredModel) -> ModelFacts:
    """Return what a run spec says of a model that can be trained.

    Raises:
        RefusedError: it has no file.
    """
    if model.blob is None or model.store is None:  # a model that can be trained has its blob
        raise RefusedError(f"{safe_line(model.name)} has no file.", "Pull it again.")
    return ModelFacts(
        store=model.store.absolute(),
        blob=model.blob,
        digest=f"sha256:{model.blob_digest}",
        architecture=model.architecture,
        quantization=model.quantization,
        context_length=model.context_length,
        further=tuple(
            FurtherPart(blob=part.path, digest=f"sha256:{part.digest}") for part in model.further
        ),
    )
