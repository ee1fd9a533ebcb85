"""`llamaforge train`: from a recipe or flags to a run that trains an adapter."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.cli.options import READING, add_json, add_reading, add_store
from llamaforge.cli.output import confirm, has_dialogue, narrate, print_json, print_text
from llamaforge.errors import ExitCode, RefusedError, UsageError
from llamaforge.safe_text import safe_line

if TYPE_CHECKING:
    from llamaforge.recipe.spec import Recipe


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "train",
        help="train an adapter on a model of the store",
        description="Train an adapter on a model's own GGUF file, or on the full-precision "
        "weights that it was made from. What flags say outranks what the recipe says.",
    )
    add_recipe(parser)
    parser.add_argument("--detach", action="store_true", help="do not watch the run")
    parser.add_argument("--yes", action="store_true", help="do not ask before training")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the run spec and stop"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add what says which run is meant: a recipe file, and flags that outrank it."""
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="a recipe file")
    parser.add_argument("--model", metavar="NAME", help="the model to train, such as qwen2.5:3b")
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="SOURCE",
        help="files, folders, patterns, hf:OWNER/NAME, each with its share as in FILE@0.5; or "
        "snapshot:ID for rows that were frozen before (llamaforge data list)",
    )
    add_store(parser)
    add_reading(parser)
    parser.add_argument("--name", metavar="RUN", help="the name of the run")
    parser.add_argument(
        "--from",
        dest="base",
        choices=("gguf", "hub"),
        help="train on the model's own GGUF file (gguf, the default), or on the full-precision "
        "Hugging Face weights that it was made from (hub)",
    )
    parser.add_argument(
        "--base",
        dest="full_base",
        metavar="REPO",
        help="those weights, as OWNER/NAME or a folder, where they are not known; means --from hub",
    )
    parser.add_argument(
        "--method",
        choices=("sft", "dpo", "orpo", "kto"),
        help="how to train: on answers (sft, the default), on pairs of a better and a worse "
        "answer (dpo, orpo), or on answers that are labelled good or bad (kto)",
    )
    parser.add_argument(
        "--continue",
        dest="continue_from",
        metavar="RUN",
        help="go on from the adapter of an earlier run on the same model, or of latest",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of the recipe, such as learning_rate=1e-4",
    )
    parser.add_argument("--publish", metavar="NAME", help="bring the result into Ollama as NAME")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Check, ask, and train.

    Raises:
        LlamaForgeError: it cannot be begun; no run was made.
    """
    from llamaforge.cli.launching import carry_out, note
    from llamaforge.wizard.beginning import create, prepare

    recipe = recipe_of(arguments)
    if recipe.training.base == "hub" and not _provide_base(recipe, arguments):
        narrate("Nothing was started.")
        return ExitCode.INTERRUPTED
    prepared = prepare(recipe, store=arguments.store, numbered=arguments.name is None, on_note=note)
    spec = prepared.spec
    if arguments.dry_run:
        if arguments.json:
            print_json(spec.model_dump(mode="json"))
        else:
            from llamaforge.recipe.documents import to_yaml

            print_text(to_yaml(spec).rstrip("\n"))
        return ExitCode.DONE
    if not arguments.yes and not arguments.json and has_dialogue():
        data = spec.data
        files = (
            ", ".join(source.place.name for source in data.sources) or f"snapshot {data.snapshot}"
        )
        what = "an adapter on" if spec.training.use_peft else "every weight of"
        on = f"{spec.model.name} ({spec.model.quantization})"
        if spec.model.full is not None:
            on = f"{spec.model.full.repo} for {spec.model.name}"
        question = (
            f"Train {what} {on} with {files}? "
            f"It takes up to {prepared.needs.disk / 1e6:,.0f} MB of disk."
        )
        if not confirm(safe_line(question)):
            narrate("Nothing was started.")
            return ExitCode.INTERRUPTED
    return carry_out(create(prepared), detach=arguments.detach, as_json=arguments.json)


def _provide_base(recipe: "Recipe", arguments: argparse.Namespace) -> bool:
    """Fetch the full-precision base where it is not there yet; return whether it may go on.

    Raises:
        NotFoundError: there is no such model or repository, or the base is not known.
        RefusedError: the base cannot be trained on, or nobody was there to agree to a download.
        LlamaForgeError: the Hub does not answer, or refuses; or the run could not begin anyway.
    """
    from llamaforge.catalog.hub_base import NOT_THERE
    from llamaforge.cli.base import fetch
    from llamaforge.wizard.beginning import (
        base_repo,
        check_before_fetch,
        full_base,
        open_inventory,
    )

    def check(folder: Path | None = None) -> None:
        numbered = arguments.name is None
        check_before_fetch(recipe, store=arguments.store, numbered=numbered, folder=folder)

    inventory = open_inventory(recipe, arguments.store)
    model = inventory.require_trainable(recipe.model.name)
    try:
        full_base(recipe, inventory, model)
    except RefusedError as error:
        if error.code != NOT_THERE or arguments.dry_run:
            raise
        check()  # hours of fetching for a run that could not begin would be wasted
        narrate(error.message)
        repo = base_repo(recipe, inventory, model)
        return fetch(repo, agreed=arguments.yes, as_json=arguments.json, judge=check)
    return True


def recipe_of(arguments: argparse.Namespace) -> "Recipe":
    """Return the recipe that the file and the flags make together.

    Paths in the file are relative to it, those in flags to the current folder.

    Raises:
        NotFoundError: the recipe file cannot be read.
        UsageError: no model or no data is named, or a value has no meaning.
    """
    from llamaforge.recipe.resolve import with_settings

    if arguments.base == "gguf" and arguments.full_base:
        raise UsageError(
            "--base names full-precision weights, and --from gguf trains on the model's own file.",
            "Leave one of them out.",
            code="two_ways",
        )
    if arguments.full_base is not None and not arguments.full_base.strip():
        raise UsageError(
            "--base names nothing.", "Name it: --base OWNER/NAME, or --base FOLDER", code="no_base"
        )
    body = _read(arguments.recipe) if arguments.recipe else {}
    training = _part(body, "training")
    _lay(_part(body, "model"), "name", arguments.model)
    _lay_data(_part(body, "data"), arguments.data)
    for key, usual in READING.items():
        chosen = getattr(arguments, key)
        _lay(_part(body, "data"), key, None if chosen == usual else chosen)
    _lay(_part(body, "publish"), "name", arguments.publish)
    _lay(_part(body, "model"), "base", _place(arguments.full_base))
    _lay(training, "base", arguments.base or (arguments.full_base and "hub"))
    _lay(training, "method", arguments.method)
    _lay(body, "name", arguments.name)
    _lay(body, "continue_from", arguments.continue_from)
    _lay_earlier(body, has_store=arguments.store is not None)
    _require(body, arguments.settings)
    return with_settings(body, arguments.settings)


def _lay_earlier(body: dict[str, Any], *, has_store: bool) -> None:
    """Where a run goes on from another one, take what is not named from that: model and base.

    Raises:
        NotFoundError: there is no such run.
    """
    from llamaforge.recipe.spec import RunSpec
    from llamaforge.runs.directory import open_run

    if not isinstance(body.get("continue_from"), str):
        return
    before = RunSpec.load(open_run(body["continue_from"]).spec_file)
    if before.training.base == "hub":
        body["training"].setdefault("base", "hub")
        body["model"].setdefault("base", before.model.base)
    if not body["model"].get("name"):
        body["model"]["name"] = before.model.name
        if not has_store:
            body["model"].setdefault("store", before.model.store)


def _lay_data(data: dict[str, Any], given: list[str] | None) -> None:
    """Lay `--data` over a recipe: files, or `snapshot:ID`.

    Raises:
        UsageError: a snapshot stands beside other data.
    """
    from llamaforge.data.library import find, named

    chosen = [item for item in map(named, given or []) if item]
    if not chosen:
        _lay(data, "sources", given)
        if given:
            data.pop("snapshot", None)
        return
    if len(given or []) > 1:
        raise UsageError(
            "A snapshot is trained on alone: it is frozen, with its split.",
            "Name files, or one snapshot.",
            code="snapshot_and_files",
        )
    data.pop("sources", None)
    data["snapshot"] = find(chosen[0]).manifest.id


def _read(path: Path) -> dict[str, Any]:
    from llamaforge.recipe.documents import load_yaml

    path = path.expanduser().absolute()
    body = load_yaml(path)
    if not isinstance(body, dict):
        raise UsageError(
            f"{safe_line(path.name)} is not a recipe.",
            "A recipe has the parts model and data.",
            code="bad_recipe",
        )
    model, then = body.get("model"), body.get("then")
    for phase in [body, *(then if isinstance(then, list) else [])]:
        data = phase.get("data") if isinstance(phase, dict) else None
        if isinstance(data, dict) and isinstance(data.get("sources"), list):
            data["sources"] = [_source_beside(path, source) for source in data["sources"]]
    if isinstance(model, dict) and "store" in model:
        model["store"] = _beside(path, model["store"])
    if isinstance(model, dict) and isinstance(model.get("base"), str):
        model["base"] = _place(model["base"], path.parent)
    return body


def _place(base: str | None, folder: Path | None = None) -> str | None:
    """Return a base as it is meant: a folder's whole path, or a repository as it is written.

    A folder begins with `./`, `../`, `~` or `/`; or it is there, and no repository has its name.
    """
    from llamaforge.catalog.hub_layout import is_repo_name, local_folder
    from llamaforge.data.sources import exists

    if base is None:
        return None
    near = (folder or Path.cwd()) / base
    if local_folder(base) is None and (is_repo_name(base) or not exists(near)):
        return base
    return str(Path(folder or Path.cwd(), Path(base).expanduser()).absolute())


def _beside(recipe: Path, place: Any) -> Any:
    """Return a path of the recipe file as it is meant; what is no path is judged later."""
    return recipe.parent / Path(place).expanduser() if isinstance(place, str) else place


def _source_beside(recipe: Path, source: Any) -> Any:
    """Return a source of the recipe file as it is meant; what is none is judged later."""
    from llamaforge.data.sources import exists

    if isinstance(source, dict) and isinstance(source.get("path"), str):
        return source | {"path": _source_beside(recipe, source["path"])}
    if not isinstance(source, str):
        return source
    place = _beside(recipe, source)
    # What cannot be a path, such as a dataset of the Hub, stays as it is written.
    return str(place) if exists(place.parent) and not source.startswith("hf:") else source


def _part(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of the recipe, empty where it is left out.

    Raises:
        UsageError: it is not a section.
    """
    part = body.get(name)
    if part is None:
        part = body[name] = {}
    if not isinstance(part, dict):
        raise UsageError(
            f"The recipe's part {name} is not a list of settings.",
            f"Write {name}: and its settings indented below.",
            code="bad_recipe",
        )
    return part


def _lay(part: dict[str, Any], key: str, value: Any) -> None:
    """Lay a flag's value over the recipe's."""
    if value is not None:
        part[key] = value


def _require(body: dict[str, Any], settings: list[str]) -> None:
    """Name the flag of what is missing, before the settings are read one by one."""
    given = {setting.partition("=")[0].strip().rpartition(".")[2] for setting in settings}
    if not body["model"].get("name") and "name" not in given:
        raise UsageError(
            "No model is named.", "Name one with --model NAME; see: llamaforge models",
            code="no_model_named",
        )  # fmt: skip
    if not (body["data"].get("sources") or body["data"].get("snapshot")) and not (
        {"sources", "snapshot"} & set(given)
    ):
        raise UsageError("No data file is named.", "Name one with --data FILE.", code="no_data")
