"""Where the cache is, and what looking into it loads and does not do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.hub.cache_builder import FIRST, REPO, RepoBuilder, whole

NO_SOCKET = """
import socket
def refuse(*_):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
LOOK_UP = (
    NO_SOCKET
    + f"""
from llamaforge.catalog.hub_cache import cache_of
print(cache_of({REPO!r}).state)
"""
)


def printed_by(code: str, **variables: str) -> str:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HOME", "hub"), ("HF_HUB_CACHE", "."), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, variable: str, below: str, offline: str
) -> None:
    RepoBuilder(tmp_path / below).commit(FIRST, whole(), ref="main")

    variables = {variable: str(tmp_path), "HF_HUB_OFFLINE": offline}

    assert printed_by(LOOK_UP, **variables) == "complete"


def test_the_cache_itself_goes_before_the_home(tmp_path: Path) -> None:
    RepoBuilder(tmp_path / "cache").commit(FIRST, whole(), ref="main")

    variables = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "cache")}

    assert printed_by(LOOK_UP, **variables) == "complete"


def test_the_module_alone_does_not_load_the_hub_library() -> None:
    code = "import sys, llamaforge.catalog.hub_cache, llamaforge.catalog.hub_download\n"

    assert printed_by(code + "print('huggingface_hub' in sys.modules)") == "False"


def test_a_look_up_loads_no_library_for_the_network(tmp_path: Path) -> None:
    code = LOOK_UP + (
        "import sys; print([n for n in ('httpx', 'httpx2', 'huggingface_hub.hf_api', 'tqdm')"
        " if n in sys.modules])"
    )

    assert printed_by(code, HF_HOME=str(tmp_path)).splitlines() == ["absent", "[]"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_cache_that_may_not_be_read_is_absent(repo: RepoBuilder) -> None:
    repo.commit(FIRST, whole(), ref="main")
    repo.place.chmod(0)
    try:
        from llamaforge.catalog.hub_cache import cache_of

        assert cache_of(REPO).state == "absent"
    finally:
        repo.place.chmod(0o700)
