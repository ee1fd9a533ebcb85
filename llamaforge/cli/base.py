"""`llamaforge base MODEL`: which Hugging Face weights a model was made from, said and fetched."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamaforge.catalog.base_choices import forget_base, remember_base
from llamaforge.cli.models import make_lister, model_json, open_inventory
from llamaforge.cli.options import add_json, add_stores
from llamaforge.cli.output import (
    confirm,
    has_dialogue,
    narrate,
    print_folded,
    print_json,
    print_text,
)
from llamaforge.errors import ExitCode, NotFoundError, RefusedError
from llamaforge.safe_text import safe_line
from llamaforge.words import size_words

if TYPE_CHECKING:
    from llamaforge.catalog.hub_download import Progress
    from llamaforge.catalog.hub_plan import DownloadPlan
    from llamaforge.catalog.listing import ListedModel

_STEPS: Final = 20


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "base",
        help="say or fetch the Hugging Face weights that a model was made from",
        description="Show which Hugging Face repository a model was made from and why, say it "
        "yourself, or download it into the Hub's cache.",
    )
    parser.add_argument("model", metavar="MODEL", help="a name such as qwen2.5:3b")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--set", metavar="REPO", dest="chosen", help="it was made from OWNER/NAME, or from a folder"
    )
    choice.add_argument("--forget", action="store_true", help="forget what --set said")
    choice.add_argument(
        "--download", action="store_true", help="fetch what the Hub's cache lacks of it"
    )
    parser.add_argument("--yes", action="store_true", help="download without asking")
    add_stores(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Show, keep, forget or fetch the base.

    Raises:
        UsageError: the name, or what --set says, is none.
        NotFoundError: there is no such model, or its base is not known.
        RefusedError: there is no room, or nobody agreed.
        LlamaForgeError: the Hub does not answer, or refuses.
    """
    inventory = open_inventory(arguments.stores)
    model = inventory.find(arguments.model)
    if arguments.chosen is not None:
        remember_base(model, arguments.chosen)
    elif arguments.forget and not forget_base(model):
        narrate(f"Nothing was said of the base of {safe_line(model.name)}.")
    listed = make_lister(inventory).join(model)
    if arguments.download:
        if not _download(listed, agreed=arguments.yes, as_json=arguments.json):
            return ExitCode.INTERRUPTED
        listed = make_lister(inventory).join(model)
    if arguments.json:
        whole = model_json(listed)
        print_json({key: whole[key] for key in ("name", "base", "cache")})
    else:
        _print(listed)
    return ExitCode.DONE


def _print(listed: "ListedModel") -> None:
    base, cache = listed.base, listed.cache
    name = safe_line(listed.model.name)
    if base.repo is None:
        print_text(f"{name}: the base is not known")
    else:
        print_text(f"{name}: {safe_line(base.repo)} ({base.confidence})")
    for piece in base.evidence:
        print_folded(safe_line(piece, limit=300), indent=2)
    if base.repo is None:
        narrate(f"Say it with: llamaforge base {name} --set OWNER/NAME")
        return
    words = {"complete": "complete", "partial": "there in part", "absent": "not there"}
    size = f", {size_words(cache.bytes)}" if cache.bytes else ""
    print_text(f"In the Hub's cache it is {words[cache.state]}{size}.")
    if cache.state != "complete":
        narrate("Training on the model's own GGUF file does not need it.")
        narrate(f"Fetch it with: llamaforge base {name} --download")


def _download(listed: "ListedModel", *, agreed: bool, as_json: bool) -> bool:
    """Fetch the base; return whether the person at the terminal agreed to it."""
    repo = listed.base.repo
    if repo is None:
        raise NotFoundError(
            f"The base of {safe_line(listed.model.name)} is not known.",
            f"Say it with: llamaforge base {safe_line(listed.model.name)} --set OWNER/NAME",
            code="unknown_base",
        )
    if os.path.isabs(repo):  # noqa: PTH117 - a folder that a person named, as text
        narrate(f"{safe_line(repo)} is a folder of yours; there is nothing to fetch.")
        return True
    return fetch(repo, agreed=agreed, as_json=as_json)


def fetch(
    repo: str,
    *,
    agreed: bool,
    as_json: bool,
    judge: Callable[[Path], None] = lambda folder: None,
) -> bool:
    """Fetch a repository into the Hub's cache; return whether the person at the terminal agreed.

    `judge` may refuse it by its small files, before the weights are fetched.

    Raises:
        RefusedError: there is no room, or nobody was there to agree (`not_agreed`).
        LlamaForgeError: the Hub does not answer, or refuses.
    """
    from llamaforge.catalog.hub_download import download
    from llamaforge.catalog.hub_plan import plan_download

    plan = plan_download(repo)
    _tell(plan)
    if not agreed and (as_json or not has_dialogue()):
        raise RefusedError(
            "Nothing was fetched: nobody was there to agree.",
            "Say --yes to download without being asked.",
            code="not_agreed",
        )
    if not agreed and not confirm("Download it?", default=False):
        narrate("Nothing was fetched.")
        return False
    download(plan, _Narrator().tell, lambda: False, judge=judge)
    narrate("All files are there, and their checksums are right.")
    return True


def _tell(plan: "DownloadPlan") -> None:
    terms = f"license {safe_line(plan.license or 'not stated', limit=60)}"
    narrate(f"{safe_line(plan.repo)}: {size_words(plan.fetch_bytes)} to fetch, {terms}.")
    narrate(f"Free on the disk: {size_words(plan.free_bytes)}. See {safe_line(plan.page)}")
    if plan.gated:
        narrate("Its makers ask you to accept their terms on that page first.")


class _Narrator:
    """Says how far the download is, with every twentieth of it."""

    def __init__(self) -> None:
        self._said = -1

    def tell(self, progress: "Progress") -> None:
        """Take how far it is."""
        part = progress.done_bytes / max(progress.total_bytes, 1)
        if int(part * _STEPS) == self._said:
            return
        self._said = int(part * _STEPS)
        done, total = size_words(progress.done_bytes), size_words(progress.total_bytes)
        narrate(f"{part:4.0%}  {done} of {total}  {safe_line(progress.name, limit=60)}")
