"""What a run could be trained on beside the model's own file: its full-precision base."""

from dataclasses import dataclass
from pathlib import Path

from llamaforge.catalog.base import Base, Confidence
from llamaforge.catalog.base_choices import checked_base
from llamaforge.catalog.base_map import load_base_map
from llamaforge.catalog.hub_base import NOT_THERE, check_fits, local_base
from llamaforge.catalog.hub_cache import Cache, cache_of
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.listing import NO_CACHE, Lister
from llamaforge.catalog.model import StoredModel
from llamaforge.errors import LlamaForgeError
from llamaforge.gguf.model_file import read_model
from llamaforge.safe_text import safe_line
from llamaforge.wizard.draft import Draft


@dataclass(frozen=True)
class BaseFacts:
    """What is known of the base of a draft's model; text from outside is not yet safe."""

    of: tuple[str, ...] = ()
    """What it was looked up for, as `about` returns it."""
    repo: str = ""
    """A repository or a folder; empty where nothing is known."""
    confidence: Confidence = "unknown"
    evidence: tuple[str, ...] = ()
    cache: Cache = NO_CACHE
    license: str = ""
    """Empty where nobody said."""
    gated: bool = False
    must_fetch: bool = False
    """Whether it is a base like any other and only has to be downloaded."""
    refusal: str = ""
    """Why it cannot be trained on; empty where it can be, once it is there."""


def about(draft: Draft) -> tuple[str, ...]:
    """Return the answers on which the base depends."""
    return (draft.model, draft.store, draft.full_base if draft.base == "other" else "")


def base_facts(draft: Draft) -> BaseFacts:
    """Return what is known of the base; nothing is fetched, and nothing is raised."""
    try:
        store = (Path(draft.store),) if draft.store else ()
        inventory = Inventory.open(store)
        model = inventory.find(draft.model)
        if draft.base == "other" and draft.full_base:
            named = checked_base(draft.full_base)
            return _judged(draft, model, Base(named, "certain", ("You named it.",)))
        names = inventory.names_by_blob()
        try:
            lister = Lister(names_by_blob=names)
        except LlamaForgeError:  # the user's own map is not sound; the list of models says so
            lister = Lister(load_base_map(own=False), names)
        return _judged(draft, model, lister.join(model).base)
    except LlamaForgeError as error:
        return BaseFacts(about(draft), refusal=error.message.rstrip("."))


def _judged(draft: Draft, model: StoredModel, base: Base) -> BaseFacts:
    """Return the facts with what speaks against training on `base`."""
    if base.repo is None:
        why = "nobody knows what this model was made from"
        return BaseFacts(about(draft), evidence=base.evidence, refusal=why)
    cache = cache_of(base.repo)
    checkpoint = base.checkpoint
    names = [name for name in model.license_names if name != "unknown"]
    license_name = checkpoint.license if checkpoint is not None else ", ".join(names)
    must_fetch, refusal = False, ""
    if base.contradictions:
        refusal = base.contradictions[0].removeprefix("But ").rstrip(".")
    else:
        try:
            found = local_base(base.repo, cache)
            if model.blob is not None:
                check_fits(found, read_model(model.blob, model.files))
        except LlamaForgeError as error:
            must_fetch = error.code == NOT_THERE
            refusal = "" if must_fetch else error.message.rstrip(".")
    return BaseFacts(
        about(draft),
        base.repo,
        base.confidence,
        base.evidence,
        cache,
        license_name,
        checkpoint is not None and checkpoint.gated,
        must_fetch,
        safe_line(refusal, limit=300),
    )
