"""The step that asks what is trained on: the file that Ollama serves, or the weights behind it."""

from typing import Any, Final

from llamaforge.catalog.base_choices import checked_base
from llamaforge.catalog.model import StoredModel
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.bases import BaseFacts
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.question import Kind, Option, Question, Step
from llamaforge.words import size_words

_PROGRAM_BYTES: Final = 1.5e9
"""Memory of the program, the adapter and a batch of usual rows, roughly."""
_PACKED_FACTOR: Final = 1.3
"""Memory for each byte of a packed file, roughly."""
_SHOWN_EVIDENCE: Final = 4
_STATES: Final = {"complete": "on this machine", "partial": "in part", "absent": "not there"}


def packed_memory(model: StoredModel) -> float:
    """Return about how many bytes training on the model's own file takes."""
    return model.size_bytes * _PACKED_FACTOR + _PROGRAM_BYTES


def base_memory(model: StoredModel, facts: Facts) -> float:
    """Return about how many bytes training on its full-precision base takes."""
    size = 2 if facts.machine.has_bfloat16 else 4
    return model.parameter_count * size + _PROGRAM_BYTES


def _of_memory(needed: float, facts: Facts) -> tuple[str, str]:
    """Return what is needed in words, and why that is too much; empty where it is not."""
    have = facts.machine.memory
    words = f"about {size_words(needed)} of {size_words(have)} of memory"
    if not have:
        return "", ""
    return words, "" if needed < have else f"needs {words}"


def recommended(draft: Draft, facts: Facts) -> str:
    """Return which way suits: the file, unless the base alone fits."""
    del draft, facts
    return "gguf"


def _ways(draft: Draft, facts: Facts) -> list[Option]:
    model = facts.model(draft.model)
    base = facts.base or BaseFacts()
    if model is None:
        return [Option("gguf", "The model's own file")]
    packed, too_much_packed = _of_memory(packed_memory(model), facts)
    full, too_much = _of_memory(base_memory(model, facts), facts)
    own = Option(
        "gguf",
        "The file that Ollama serves" + ("" if too_much_packed else " (recommended)"),
        "Nothing to download, least memory, and what is trained is what is served"
        + (f": {packed}." if packed else "."),
    )
    repo = safe_line(base.repo, limit=60)
    refusal = "" if draft.base == "other" else base.refusal
    known = base.repo and draft.base != "other"
    hub = Option(
        "hub",
        f"The full-precision weights: {repo}" if known else "The full-precision weights",
        "Learns on unrounded numbers, for QLoRA, DoRA or training every weight; "
        f"{_where(base)}" + (f"; {full}." if full else "."),
        refusal or (too_much if known else ""),
    )
    other = Option(
        "other",
        "Other full-precision weights, named by hand",
        "A repository as OWNER/NAME, or a folder with config.json and safetensors.",
    )
    return [own, hub, other]


def _where(base: BaseFacts) -> str:
    if not base.must_fetch:
        return "they are on this machine"
    if base.cache.missing_bytes:
        return f"{size_words(base.cache.missing_bytes)} to download"
    return "they have to be downloaded first"


def known_of_base(draft: Draft, facts: Facts) -> list[tuple[str, str]]:
    """Return what is known of the base, as label and value."""
    del draft
    base = facts.base
    if base is None or not base.repo:
        return []
    size = base.cache.bytes
    there = _STATES[base.cache.state] + (f", {size_words(size)}" if size else "")
    if base.cache.missing_bytes:
        there += f", {size_words(base.cache.missing_bytes)} to download"
    found = [
        ("base", f"{safe_line(base.repo, limit=100)} ({base.confidence})"),
        *(("", safe_line(piece, limit=200)) for piece in base.evidence[:_SHOWN_EVIDENCE]),
        ("in the cache", there),
        ("licence", safe_line(base.license, limit=60) or "not stated"),
    ]
    if base.gated:
        found.append(("gated", "its makers ask you to accept their terms on its page first"))
    if base.refusal:
        found.append(("not possible", base.refusal))
    return found


def _way_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    found = next((way for way in _ways(draft, facts) if way.value == answer), None)
    if found is None:
        return "Choose gguf, hub or other."
    if answer == "hub" and found.refusal:
        return f"That is not possible: {found.refusal}."
    return ""


def _name_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    try:
        checked_base(str(answer))
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def _judged(draft: Draft, facts: Facts) -> str:
    del draft
    refusal = facts.base.refusal if facts.base is not None else ""
    return f"{refusal[0].upper()}{refusal[1:]}." if refusal else ""


STEP: Final = Step(
    "base",
    "Base",
    "What is trained: the packed file that Ollama serves, or the weights it was made from?",
    (
        Question(
            "base",
            "--from",
            "What to train on",
            "Either way the result is an adapter over your own model, and the model stays as it "
            "is.",
            Kind.CHOICE,
            options=_ways,
            default=recommended,
            problem=_way_problem,
            known=known_of_base,
            needs="base",
        ),
        Question(
            "full_base",
            "--base",
            "Which weights",
            "A repository of the Hub, OWNER/NAME, or a folder with config.json and safetensors.",
            Kind.TEXT,
            problem=_name_problem,
            applies=lambda draft, facts: draft.base == "other",
            known=known_of_base,
            looks="base",
            judged=_judged,
        ),
    ),
)
