"""The answers that a person has given so far, and the recipe that they make."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import yaml

from llamaforge import paths
from llamaforge.data import library
from llamaforge.data.sources import absolute_source
from llamaforge.errors import LlamaForgeError, UsageError
from llamaforge.files import write_atomic, write_json
from llamaforge.recipe.resolve import with_settings
from llamaforge.recipe.spec import Recipe
from llamaforge.wizard.presets import Advice

_MOST_DRAFTS: Final = 8
NO_TRAINING: Final = "prompt"
"""The goal that needs no training: a system text and some examples."""


@dataclass(frozen=True)
class Draft:
    """What was answered; an empty text is a question that still stands open."""

    model: str = ""
    """The model's name in Ollama."""
    store: str = ""
    """The store it is in; empty means Ollama's own places."""
    base: str = ""
    """What is trained on: `gguf`, the model's own file; `hub`, its full-precision base as far as
    that is known; or `other`, the base that is named in `full_base`."""
    full_base: str = ""
    """A repository or a folder that the person named."""
    sources: tuple[str, ...] = ()
    """Files, folders, patterns and datasets as they were typed; or one `snapshot:ID` alone."""
    map: str = ""
    """What the columns are, where the rows do not say it themselves."""
    preference: str = "refuse"
    allow_secrets: bool = False
    held_out: str = ""
    """Part of the rows that is held back, as a number; empty means the usual tenth."""
    goal: str = ""
    preset: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that the person chose, over what the preset advises; as texts."""
    probes: tuple[str, ...] = ()
    """Questions that are answered while it trains, beside what the model answered before."""
    system: str = ""
    """The system text, where the goal needs no training."""
    name: str = ""
    """The run's name."""
    publish: str = ""
    """The name in Ollama; empty means that the result is not published."""
    continue_from: str = ""
    """The run whose adapter is gone on from."""
    then: str = ""
    """Further phases of training as a recipe has them, in JSON; nothing asks for them."""
    said_of_sources: str = ""
    """What a recipe says of single sources, in JSON, by their text; nothing asks for it."""

    def with_answers(self, **answers: Any) -> "Draft":
        """Return the draft with other answers."""
        return replace(self, **answers)

    def setting(self, name: str) -> str | None:
        """Return what the person chose for a setting, named with or without its section."""
        found = (v for key, v in self.settings.items() if key.rpartition(".")[2] == name)
        return next(found, None)

    @property
    def trains_on_base(self) -> bool:
        """Whether the full-precision base is trained on."""
        return self.base in {"hub", "other"}

    @property
    def snapshot(self) -> str:
        """The id of the frozen rows that are learned from, as it was typed; empty without any."""
        return library.named(self.sources[0]) if self.sources else ""

    def with_whole_paths(self) -> "Draft":
        """Return the draft with sources as any other process finds them.

        Raises:
            UsageError: as `absolute_source`.
        """
        if self.snapshot:
            return self
        return replace(self, sources=tuple(map(absolute_source, self.sources)))

    def rows(self) -> dict[str, Any]:
        """Return what is learned from as a recipe's part `data` names it.

        Raises:
            LlamaForgeError: there are no such frozen rows.
        """
        if self.snapshot:
            return {"snapshot": library.find(self.snapshot).manifest.id}
        said = _json(self.said_of_sources)
        return {"sources": [said.get(text, text) for text in self.sources]}

    @property
    def needs_file(self) -> bool:
        """Whether the recipe says what no flag can."""
        return bool(self.then or any(text in _json(self.said_of_sources) for text in self.sources))

    def body(self, advice: tuple[Advice, ...]) -> dict[str, Any]:
        """Return the recipe as a person would write it, with what is advised."""
        recipe: dict[str, Any] = {
            "model": {"name": self.model},
            "data": self.rows(),
            "training": {},
        } | self._phases()
        if self.name:
            recipe = {"name": self.name} | recipe
        if self.store:
            recipe["model"]["store"] = self.store
        for key, usual in (("map", ""), ("preference", "refuse"), ("allow_secrets", False)):
            if getattr(self, key) != usual:
                recipe["data"][key] = getattr(self, key)
        if self.held_out and not self.snapshot:  # those are divided as they were
            recipe["data"]["validation_fraction"] = float(self.held_out)
        if self.trains_on_base:
            recipe["training"]["base"] = "hub"
        if self.base == "other":
            recipe["model"]["base"] = self.full_base
        for item in advice:
            recipe[item.section][item.key] = item.value
        if self.probes:
            recipe["evaluation"] = {"probe_prompts": list(self.probes)}
        if self.publish:
            recipe["publish"] = {"name": self.publish}
        return recipe

    def _phases(self) -> dict[str, Any]:
        """Return what comes before and after this training."""
        before = {"continue_from": self.continue_from} if self.continue_from else {}
        return before | ({"then": json.loads(self.then)} if self.then else {})

    def recipe(self, advice: tuple[Advice, ...]) -> Recipe:
        """Return the recipe of these answers.

        Raises:
            UsageError: an answer is none that a recipe can have.
            NotFoundError: the frozen rows are not there any more.
        """
        return with_settings(self.body(advice), [f"{k}={v}" for k, v in self.settings.items()])

    def fitting(self, advice: tuple[Advice, ...]) -> "tuple[Draft, tuple[str, ...]]":
        """Return the draft without settings that it cannot have, and these as `KEY=VALUE`.

        Another goal may leave settings behind that mean nothing to its method.
        """
        fit, left_out = replace(self, settings={}), []
        for key, value in self.settings.items():
            more = replace(fit, settings={**fit.settings, key: value})
            try:
                more.recipe(advice)
            except UsageError:
                left_out.append(f"{key}={value}")
            else:
                fit = more
        return fit, tuple(left_out)

    def yaml(self, advice: tuple[Advice, ...]) -> str:
        """Return the recipe as a file, with the reason of each number beside it.

        Raises:
            UsageError: as `recipe`.
        """
        body = self.body(advice)
        chosen = self.recipe(advice)
        for key in self.settings:
            section, name = _place(key, chosen)
            body.setdefault(section, {})[name] = getattr(getattr(chosen, section), name)
        reasons = {
            (item.section, f"  {item.key}"): item.reason
            for item in advice
            if self.setting(item.key) is None
        }
        text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True, default_flow_style=False)
        lines, section = [], ""
        for line in text.splitlines():
            key = line.partition(":")[0]
            section = section if key.startswith((" ", "-")) else key
            reason = reasons.get((section, key))
            lines.append(f"{line}  # {reason}" if reason else line)
        return "# Train it with: llamaforge train THIS-FILE\n" + "\n".join(lines) + "\n"

    def command(self, advice: tuple[Advice, ...]) -> str:
        """Return the shell command that trains the same; where no flags can, with its file."""
        if self.needs_file:
            return shlex.join(["llamaforge", "train", f"{self.name or 'recipe'}.yaml"])
        words = ["llamaforge", "train", "--model", self.model, "--data", *self.sources]
        for flag, value in (
            ("--store", self.store),
            ("--continue", self.continue_from),
            ("--from", "hub" if self.trains_on_base else ""),
            ("--base", self.full_base if self.base == "other" else ""),
            ("--map", self.map),
            ("--preference", self.preference if self.preference != "refuse" else ""),
            ("--name", self.name),
        ):
            words += [flag, value] if value else []
        words += ["--allow-secrets"] if self.allow_secrets else []
        settings = {item.key: str(item.value) for item in advice}
        if self.held_out and not self.snapshot:
            settings["validation_fraction"] = self.held_out
        if self.probes:
            settings["probe_prompts"] = json.dumps(list(self.probes), ensure_ascii=False)
        settings |= self.settings
        for key, value in settings.items():
            words += ["--set", f"{key}={value}"]
        if self.publish:
            words += ["--publish", self.publish]
        return shlex.join(words)


def _place(key: str, recipe: Recipe) -> tuple[str, str]:
    """Return the section and the name of a setting that `with_settings` has taken."""
    section, _, name = key.rpartition(".")
    if section:
        return section, name
    sections = ("training", "data", "evaluation", "model", "publish")
    return next((part, key) for part in sections if hasattr(getattr(recipe, part), key))


def _json(text: str) -> dict[str, Any]:
    found = json.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def kept_drafts() -> list[Draft]:
    """Return the drafts that were left behind and can be read, the newest first."""
    found = []
    for file in _files():
        draft = _read(file)
        if draft is not None:
            found.append(draft)
    return found


def kept_draft(model: str | None = None, store: str = "") -> Draft | None:
    """Return the newest draft that was left behind, of a model of a store or of any."""
    for draft in kept_drafts():
        if model is None or (draft.model, draft.store) == (model, store):
            return draft
    return None


def keep_draft(draft: Draft) -> bool:
    """Remember a draft, to be offered again; return whether that could be done.

    There is one for each model with its rows; the oldest of many is given up.
    """
    try:
        write_json(_file(draft), asdict(draft))
        if draft.sources:  # it was kept before without any
            _file(replace(draft, sources=())).unlink(missing_ok=True)
        for file in _files()[_MOST_DRAFTS:]:
            file.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def forget_draft(draft: Draft) -> None:
    """Forget a draft that was kept."""
    for file in (_file(draft), _file(replace(draft, sources=()))):
        file.unlink(missing_ok=True)


def _read(file: Path) -> Draft | None:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        known = {item.name for item in fields(Draft)}
        values = {key: value for key, value in body.items() if key in known}
        for key in ("sources", "probes"):
            values[key] = tuple(map(str, values.get(key, ())))
        values["settings"] = {str(k): str(v) for k, v in dict(values.get("settings", {})).items()}
        texts = known - {"sources", "probes", "settings", "allow_secrets"}
        if any(not isinstance(values.get(key, ""), str) for key in texts):
            return None
        for key in ("then", "said_of_sources"):  # as they are read later on
            json.loads(values.get(key) or "{}")
        return Draft(**values)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_recipe(path: Path, text: str) -> None:
    """Write a recipe file, whole or not at all."""
    write_atomic(path, text, mode=0o644)


def _files() -> list[Path]:
    """Return the files of all drafts, the newest first."""
    try:
        found = [(file.stat().st_mtime_ns, file) for file in _folder().glob("*.json")]
    except OSError:
        return []
    return [file for _, file in sorted(found, reverse=True)]


def _file(draft: Draft) -> Path:
    """Return the file of a draft: the same for the same model and rows."""
    about = json.dumps([draft.model, draft.store, whole_sources(draft)])
    return _folder() / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"


def whole_sources(draft: Draft) -> tuple[str, ...]:
    """Return the sources as any other process finds them; as they were typed if that fails."""
    try:
        return draft.with_whole_paths().sources
    except LlamaForgeError:
        return draft.sources


def _folder() -> Path:
    return paths.home() / "drafts"
