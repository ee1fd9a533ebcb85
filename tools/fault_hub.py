"""Row 14: a Hub that refuses, breaks off or is not there, and a cache that is half full."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from huggingface_hub import close_session, constants

from llamaforge.catalog.hub_cache import cache_of
from llamaforge.errors import LlamaForgeError
from tests.contract.hub.fake_hub import FakeHub, Fault
from tests.contract.hub.hub_desk import NAME, contents, fetch, serve, single
from tools.fault_bench import Bench, patched, require

_WEIGHTS: Final = "model.safetensors"
_FAULTS: Final[dict[str, tuple[str, Fault]]] = {
    "hub_token": (
        _WEIGHTS,
        Fault(401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    ),
    "hub_gated": (_WEIGHTS, Fault(403, {"X-Error-Code": "GatedRepo"})),
    "hub_not_found": (_WEIGHTS, Fault(404)),
    "hub_failed": ("config.json", Fault(500, times=-1)),
    "hub_offline": (_WEIGHTS, Fault(cut_after=0, times=-1)),
}


def hub_fails(bench: Bench, chance: random.Random) -> None:
    """Each failure has words of its own, leaves nothing damaged, and is gone on from."""
    cache = bench.home / f"hub-{chance.randrange(1 << 30)}"
    code = chance.choice([*_FAULTS, "none"])
    with FakeHub() as hub, _settings(hub, cache):
        files = single(chance.randrange(50_000, 200_000))
        serve(hub, files)
        if code != "none":
            path, fault = _FAULTS[code]
            hub.faults[path] = [fault]
            error = _refused(fetch)
            require(error.code == code, f"{error.code} instead of {code}: {error.message}")
            require(error.message and error.hint, "without a word")
            require(cache_of(NAME).state in {"partial", "absent"}, "half a base is called whole")
            hub.faults.clear()
        cuts = [Fault(cut_after=chance.randrange(1, 40_000)) for _ in range(chance.randrange(3))]
        hub.faults[_WEIGHTS] = list(cuts)
        require(contents(fetch()) == files, "what came is not what was sent")
        asked = len(hub.seen)
        with patched(constants, HF_HUB_OFFLINE=True):
            require(cache_of(NAME).state == "complete", "offline it is not found")
        require(len(hub.seen) == asked, "a socket was opened for what is there")


def _refused(action: Callable[[], object]) -> LlamaForgeError:
    try:
        action()
    except LlamaForgeError as error:
        return error
    return LlamaForgeError("Nothing was said.", code="none")


def _settings(hub: FakeHub, cache: Path):  # type: ignore[no-untyped-def]
    close_session()
    return patched(
        constants,
        ENDPOINT=hub.url,
        HUGGINGFACE_CO_URL_TEMPLATE=hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        HF_HUB_CACHE=str(cache),
        HF_HOME=str(cache.parent),
        HF_TOKEN_PATH=str(cache / "token"),
        HF_STORED_TOKENS_PATH=str(cache / "stored_tokens"),
        HF_HUB_OFFLINE=False,
        HF_HUB_DISABLE_TELEMETRY=True,
        HF_HUB_DISABLE_PROGRESS_BARS=True,
    )
