"""From a recipe to a run's directory: what the command line and the screens do alike."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from llamaforge import paths
from llamaforge.catalog.base_map import load_base_map
from llamaforge.catalog.hub_base import (
    NOT_THERE,
    LocalBase,
    check_fits,
    described_base,
    local_base,
)
from llamaforge.catalog.hub_rows import check_dataset
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.listing import Lister
from llamaforge.catalog.model import StoredModel
from llamaforge.catalog.names import parse_name
from llamaforge.data.check import first_problem
from llamaforge.data.sources import hub_dataset
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError
from llamaforge.gguf.header import Header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.held_out import check_held_out
from llamaforge.recipe.preflight import (
    Needs,
    check_disk,
    check_memory,
    check_trackers,
    check_way,
    needs_of,
)
from llamaforge.recipe.resolve import ModelFacts, resolve
from llamaforge.recipe.spec import (
    FurtherPart,
    Recipe,
    ResolvedBase,
    RunSpec,
)
from llamaforge.recipe.targets import check_targets
from llamaforge.recipe.template import check_template
from llamaforge.runs.directory import RunDirectory, check_free, check_run_name, create_run
from llamaforge.safe_text import safe_line
from llamaforge.wizard.continuing import EarlierAdapter, earlier_adapter, take_adapter

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
    start_file: Path | None = None
    """The adapter that training goes on from, where the run before keeps it."""


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
    return _prepared(recipe, store, numbered, on_note, full_base)


def check_before_fetch(
    recipe: Recipe, *, store: Path | None, numbered: bool, folder: Path | None = None
) -> None:
    """Return if nothing keeps the run from beginning but that its base has to be fetched.

    Args:
        recipe: what to do.
        store: outranks the recipe's store.
        numbered: whether a run's name that is taken gets a number.
        folder: where the small files of the base lie by now; None where nothing does.

    Raises:
        LlamaForgeError: as `prepare`.
    """

    def base(recipe: Recipe, inventory: Inventory, model: StoredModel) -> LocalBase | None:
        if folder is None:
            return None
        return described_base(base_repo(recipe, inventory, model), folder, None)

    _prepared(recipe, store, numbered, _silent, base)


def _prepared(
    recipe: Recipe,
    store: Path | None,
    numbered: bool,
    on_note: Callable[[LlamaForgeError], None],
    base_of: "_BaseOf",
) -> Prepared:
    spec, header, before = _resolved(recipe, store, on_note, base_of)
    numbered = numbered or recipe.name is None
    if not numbered:
        check_free(spec.run)
    needs = needs_of(spec, header)
    check_trackers(spec)
    check_memory(needs)
    sources = (source for phase in spec.phases for source in phase.data.sources)
    for dataset in {item.id for item in map(hub_dataset, sources) if item is not None}:
        check_dataset(dataset)
    check_disk(paths.runs_folder(), needs.disk)
    return Prepared(spec, needs, numbered, None if before is None else before.file)


def resolved(
    recipe: Recipe, *, store: Path | None, on_note: Callable[[LlamaForgeError], None] = _silent
) -> RunSpec:
    """Return the run spec of a recipe whose model and rows can be trained on.

    Raises:
        NotFoundError: there is no such store, model or data file.
        UsageError: a name or a setting has no meaning.
        RefusedError: the model or the rows cannot be trained on.
    """
    return _resolved(recipe, store, on_note, full_base)[0]


def _resolved(
    recipe: Recipe,
    store: Path | None,
    on_note: Callable[[LlamaForgeError], None],
    base_of: "_BaseOf",
) -> "tuple[RunSpec, Header, EarlierAdapter | None]":
    name = recipe.name or automatic_name(recipe.model.name)
    check_run_name(name)
    if recipe.publish.name is not None:
        parse_name(recipe.publish.name)
    found = open_inventory(recipe, store)
    for note in found.problems:
        on_note(note)
    model = found.require_trainable(recipe.model.name)
    bare = facts_of(model)
    header = read_model(bare.blob, (bare.blob, *(part.blob for part in bare.further)))
    base = base_of(recipe, found, model)
    if base is not None:
        check_fits(base, header)
    own = None if base is None else base.chat_template
    check_template(recipe.model.chat_template, own, header)
    facts = facts_of(model, base)
    before = None if recipe.continue_from is None else earlier_adapter(recipe.continue_from, facts)
    start = None if before is None else (before.start, before.training)
    spec = resolve(recipe, facts, name, start=start)
    check_way(spec, header)
    for phase in spec.phases:
        check_targets(phase.training, header)
        data = phase.data
        if data.snapshot is None:
            intake = first_problem(
                data.sources, data.max_rejected_fraction, data.choices, data.split_seed
            )
            if intake is not None:
                check_held_out(phase, intake.for_validation)
    return spec, header, before


_BaseOf = Callable[[Recipe, Inventory, StoredModel], LocalBase | None]
"""Gives the full-precision base that a recipe trains on; None where there is none to look at."""


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
        if prepared.start_file is not None and prepared.spec.start is not None:
            take_adapter(prepared.start_file, prepared.spec.start, run)
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


def open_inventory(recipe: Recipe, store: Path | None) -> Inventory:
    """Return the models of the store that is meant; `store` outranks the recipe's.

    Raises:
        NotFoundError: there is no such store.
    """
    chosen = store or recipe.model.store
    return Inventory.open((chosen.expanduser().absolute(),) if chosen else ())


def base_repo(recipe: Recipe, inventory: Inventory, model: StoredModel) -> str:
    """Return the full-precision base of `model`: as the recipe names it, else as far as known.

    Raises:
        NotFoundError: nothing is known of it (`unknown_base`).
    """
    if recipe.model.base is not None:
        return recipe.model.base
    names = inventory.names_by_blob()
    try:
        lister = Lister(names_by_blob=names)
    except LlamaForgeError:  # the user's own map is not sound; `models` says so
        lister = Lister(load_base_map(own=False), names)
    repo = lister.join(model).base.repo
    if repo is None:
        raise NotFoundError(
            f"The full-precision base of {safe_line(model.name)} is not known.",
            "Name it: --base OWNER/NAME, or --base FOLDER",
            code="unknown_base",
        )
    return repo


def full_base(recipe: Recipe, inventory: Inventory, model: StoredModel) -> LocalBase | None:
    """Return the full-precision base that the recipe trains on; None where it trains on the file.

    Raises:
        NotFoundError: nothing is known of it.
        RefusedError: as `local_base`.
    """
    if recipe.training.base != "hub":
        return None
    try:
        return local_base(base_repo(recipe, inventory, model))
    except RefusedError as error:
        if error.code == NOT_THERE:
            error.hint = error.hint.replace("MODEL", safe_line(model.name))
        raise


def facts_of(model: StoredModel, base: LocalBase | None = None) -> ModelFacts:
    """Return what a run spec says of a model that can be trained, and of its base.

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
        full=None
        if base is None
        else ResolvedBase(
            repo=base.repo,
            revision=base.revision,
            folder=base.folder,
            chat_template=base.chat_template,
        ),
        positions=None if base is None else base.positions,
    )
