"""What this machine, Ollama, the Hub's cache and the environment offer, and what is wrong there."""

import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from llamaforge import __version__, hardware, paths
from llamaforge.catalog.host import resolve_host
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.model import ModelStatus
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import RunState, list_runs
from llamaforge.safe_text import safe_line
from llamaforge.wizard.checks import Check, Verdict
from llamaforge.words import plural, size_words

_LITTLE_MEMORY_BYTES: Final = 2_000_000_000
"""Less than this is left for hardly any model."""
_LITTLE_DISK_BYTES: Final = 1_000_000_000
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGE: Final = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(;.*)?$")
_SHOWN_VERSIONS: Final = (
    "torch", "transformers", "peft", "accelerate", "datasets", "gguf", "llama-cpp-python",
    "tokenizers", "huggingface-hub", "ollama", "textual", "numpy",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """What was looked at in one place."""

    name: str
    """`machine`, `environment`, `program`, `ollama`, `hub` or `runs`."""
    checks: tuple[Check, ...]
    facts: dict[str, Any]
    """Figures for scripts."""

    def to_json(self) -> dict[str, Any]:
        """Return it as scripts get it."""
        return {"name": self.name, "checks": [asdict(c) for c in self.checks], "facts": self.facts}


def examined(stores: Sequence[Path] = ()) -> Iterator[Section]:
    """Yield what each place offers, as soon as it was looked at; nothing is changed or downloaded.

    Args:
        stores: the stores to look at instead of Ollama's own places.
    """
    yield _guarded("machine", _machine)
    yield _guarded("environment", _environment)
    yield _guarded("program", _program)
    yield _guarded("ollama", lambda: _ollama(stores))
    yield _guarded("hub", _hub)
    yield _guarded("runs", _runs)


_Found = tuple[list[Check], dict[str, Any]]


def _guarded(name: str, look: Callable[[], _Found]) -> Section:
    """Return a section; what keeps it from being looked at is its only line."""
    try:
        checks, facts = look()
    except LlamaForgeError as error:
        return Section(name, (Check(name.capitalize(), "fail", error.message, error.hint),), {})
    except OSError as error:
        message = f"It cannot be looked at: {error.strerror or type(error).__name__}."
        return Section(name, (Check(name.capitalize(), "fail", message),), {})
    return Section(name, tuple(checks), facts)


def _machine() -> _Found:
    cores, memory = hardware.physical_cores(), hardware.available_memory_bytes()
    fast, gpus = hardware.cpu_has_fast_bfloat16(), hardware.gpus()
    checks = [
        Check(
            "Processor",
            "pass",
            f"{plural(cores, 'core')}; it multiplies bfloat16 "
            + ("natively." if fast else "no faster than float32, so float32 is computed in."),
        )
    ]
    enough = memory >= _LITTLE_MEMORY_BYTES
    checks.append(
        Check(
            "Memory",
            "pass" if enough else "warn",
            f"{size_words(memory)} are available.",
            "" if enough else "Close other programs; only the smallest models fit into that.",
        )
    )
    checks.append(_gpu(gpus))
    free = hardware.free_disk_bytes(paths.home())
    roomy = free >= _LITTLE_DISK_BYTES
    checks.append(
        Check(
            "Disk",
            "pass" if roomy else "warn",
            f"{size_words(free)} are free for runs in {safe_line(str(paths.home()))}.",
            "" if roomy else "Free some space, or set LLAMAFORGE_HOME to a folder elsewhere.",
        )
    )
    checks.append(_home())
    return checks, {
        "system": platform.platform(),
        "cores": cores,
        "fast_bfloat16": fast,
        "available_memory_bytes": memory,
        "free_disk_bytes": free,
        "home": str(paths.home()),
        "gpus": [asdict(gpu) for gpu in gpus],
    }


def _gpu(gpus: Sequence[hardware.Gpu]) -> Check:
    if not gpus:
        return Check("GPU", "pass", "None is seen; training computes on the processor.")
    names = ", ".join(f"{safe_line(gpu.name)} ({size_words(gpu.free_bytes)} free)" for gpu in gpus)
    if "+cpu" in _version("torch"):
        return Check(
            "GPU",
            "warn",
            f"{names}; the installed torch cannot use it.",
            "Install a GPU build of torch into the same environment, then train with "
            "--set device=cuda",
        )
    return Check("GPU", "pass", f"{names}; train on it with --set device=cuda")


def _home() -> Check:
    place = paths.home()
    while not place.exists() and place != place.parent:
        place = place.parent
    if os.access(place, os.W_OK | os.X_OK):
        return Check("Folder", "pass", "Runs can be written.")
    return Check(
        "Folder",
        "fail",
        f"{safe_line(str(place))} cannot be written to.",
        "Set LLAMAFORGE_HOME to a folder of your own.",
    )


def _environment() -> _Found:
    checks = []
    for name in _THREADS:
        text = os.environ.get(name, "").strip()
        if text.isdigit() and 0 < int(text) < hardware.physical_cores():
            checks.append(
                Check(
                    name,
                    "warn",
                    f"It is {safe_line(text, limit=20)}, so some libraries use fewer threads than "
                    f"there are cores ({hardware.physical_cores()}).",
                    f"Leave it out: unset {name}",
                )
            )
    allowed = hardware.allowed_memory_bytes()
    if allowed is not None:
        checks.append(
            Check("Memory limit", "pass", f"A run may take {size_words(allowed)} at most.")
        )
    encoding = sys.stdout.encoding or ""
    if not encoding.lower().replace("-", "").startswith("utf"):
        checks.append(
            Check(
                "Terminal",
                "warn",
                f"Text goes out as {safe_line(encoding, limit=40) or 'an unknown encoding'}: other "
                "characters are shown as escapes.",
                "Set a UTF-8 locale, for example: export LANG=C.UTF-8",
            )
        )
    if not checks:
        checks.append(Check("Variables", "pass", "Nothing is set that would slow training down."))
    return checks, {"python": platform.python_version(), "encoding": encoding}


def _program() -> _Found:
    versions = {name: _version(name) for name in _SHOWN_VERSIONS}
    wrong = list(_wrong_packages())
    checks = [
        Check(
            safe_line(name, limit=60),
            "fail",
            f"Version {found} is installed, and {wanted} is needed."
            if found
            else "It is not installed.",
            f"Install it: pip install '{name}{wanted}'",
        )
        for name, wanted, found in wrong
    ]
    if not wrong:
        checks.append(
            Check("Packages", "pass", f"LlamaForge {__version__} has every package it needs.")
        )
    checks.append(_blocks())
    return checks, {"llamaforge": __version__, "versions": versions}


def _blocks() -> Check:
    from llamaforge.gguf.ggml import library  # noqa: PLC0415 - loads a shared library

    if library() is not None:
        return Check("Blocks", "pass", "llama.cpp's own functions unpack the models' blocks.")
    return Check(
        "Blocks",
        "warn",
        "The installed llama.cpp has no functions that could unpack blocks; numpy does it, about "
        "ten times slower.",
        "Install llama-cpp-python again: pip install --force-reinstall llama-cpp-python",
    )


def _wrong_packages() -> Iterator[tuple[str, str, str]]:
    """Yield name, wanted versions and found version of each requirement that is not met."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415

    try:
        required = metadata.requires("llamaforge") or []
    except metadata.PackageNotFoundError:
        return
    for line in required:
        match = _PACKAGE.match(line)
        if match is None or match[3]:  # extras, and what other platforms need
            continue
        name, wanted, found = match[1], match[2].strip(), _version(match[1])
        try:
            fits = SpecifierSet(wanted).contains(found, prereleases=True) if found else False
        except InvalidSpecifier:
            continue
        if not fits:
            yield name, wanted, found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _ollama(stores: Sequence[Path]) -> _Found:
    checks, facts = [_server()], {"places": [str(p.root) for p in paths.store_places()]}
    try:
        found = Inventory.open(tuple(stores))
        models = list(found.models())
    except LlamaForgeError as error:
        # Without a store there is still the demo; one that cannot be read is another matter.
        verdict: Verdict = "warn" if error.code == "no_store" else "fail"
        return [*checks, Check("Store", verdict, error.message, error.hint)], facts
    checks += [Check("Store", "warn", item.message, item.hint) for item in found.problems]
    states = Counter(model.status for model in models)
    ready = states[ModelStatus.READY]
    where = ", ".join(safe_line(str(store.root)) for store in found.stores) or "the server"
    checks.append(
        Check(
            "Models",
            "pass" if ready else "warn",
            f"{ready:,} of {plural(len(models), 'model')} in {where} can be trained.",
            ""
            if ready
            else "Pull one, for example: ollama pull qwen2.5:0.5b; or see how it works without "
            "one: llamaforge demo",
        )
    )
    for status, count in sorted(states.items()):
        if status is ModelStatus.READY:
            continue
        first = next(model for model in models if model.status is status)
        checks.append(
            Check(
                status.value.replace("_", " ").capitalize(),
                "warn" if status in {ModelStatus.BROKEN, ModelStatus.MISSING_BLOB} else "pass",
                f"{plural(count, 'model')}, such as {safe_line(first.name, limit=60)}: "
                f"{safe_line(first.reason, limit=200)}.",
                "See: llamaforge models",
            )
        )
    return checks, facts | {
        "stores": [str(store.root) for store in found.stores],
        "models": len(models),
        "trainable": ready,
        "states": {status.value: count for status, count in states.items()},
    }


def _server() -> Check:
    from llamaforge.publishing.server import Limits, PublishingServer  # noqa: PLC0415
    from llamaforge.publishing.versions import require_adapters  # noqa: PLC0415

    limits = Limits(connect_seconds=2.0, answer_seconds=5.0, retry_pauses_seconds=())
    host = resolve_host()
    try:
        with PublishingServer(host, limits) as server:
            version = server.version()
    except LlamaForgeError as error:
        return Check(
            "Server",
            "warn",
            f"{error.message} Training needs none; publishing does.",
            error.hint,
        )
    text = f"Ollama {safe_line(version.text, limit=40)} answers at {safe_line(host.url)}"
    if not host.is_loopback:
        return Check(
            "Server",
            "warn",
            f"{text}, which is another machine: what is published is sent there.",
            "Leave OLLAMA_HOST out to use this machine's own.",
        )
    try:
        require_adapters(version, "llama")
    except LlamaForgeError:
        return Check("Server", "pass", f"{text}; it takes merged files, and no adapters.")
    return Check("Server", "pass", f"{text}; it takes adapters.")


def _hub() -> _Found:
    from huggingface_hub import constants, get_token  # noqa: PLC0415 - not at start-up

    folder = Path(constants.HF_HUB_CACHE)
    checks = []
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    writable = os.access(place, os.W_OK | os.X_OK)
    bases = sorted(folder.glob("models--*")) if folder.is_dir() else []
    free = hardware.free_disk_bytes(folder)
    checks.append(
        Check(
            "Cache",
            "pass" if writable else "warn",
            f"{plural(len(bases), 'model')} in {safe_line(str(folder))}, {size_words(free)} free"
            + ("." if writable else "; it cannot be written to, so nothing can be downloaded."),
            "" if writable else "Set HF_HOME to a folder of your own.",
        )
    )
    offline = bool(constants.HF_HUB_OFFLINE)
    if offline:
        checks.append(
            Check("Network", "pass", "HF_HUB_OFFLINE is set: what is not in the cache stays away.")
        )
    token = get_token() is not None
    checks.append(
        Check(
            "Token",
            "pass",
            "There is one, for repositories that ask who you are."
            if token
            else "There is none; only repositories that ask who you are need one: hf auth login",
        )
    )
    return checks, {
        "cache": str(folder),
        "models": len(bases),
        "free_disk_bytes": free,
        "offline": offline,
        "token": token,
    }


def _runs() -> _Found:
    states = Counter(run.read_status().state for run in list_runs())
    total = sum(states.values())
    checks = [Check("Runs", "pass", f"{total:,} in {safe_line(str(paths.runs_folder()))}.")]
    lost = states[RunState.LOST]
    if lost:
        checks.append(
            Check(
                "Lost runs",
                "warn",
                f"{lost:,} ended without a word, as when a machine is switched off.",
                "Go on with them: llamaforge runs list, then llamaforge runs resume RUN",
            )
        )
    return checks, {"states": {state.value: count for state, count in states.items()}}
