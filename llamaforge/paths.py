"""Where things lie: the program's home, runs, the embedded store, Ollama's stores."""

import os
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path


def home() -> Path:
    """Return the folder of all runs and caches: `$LLAMAFORGE_HOME` or the platform's data folder.

    The folder may not exist yet: nothing is created before it is needed.
    """
    explicit = os.environ.get("LLAMAFORGE_HOME", "").strip()
    if explicit:
        return Path(explicit).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "llamaforge"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "llamaforge"
    data = os.environ.get("XDG_DATA_HOME", "").strip()
    return (Path(data) if data else Path.home() / ".local" / "share") / "llamaforge"


def runs_folder() -> Path:
    """Return the folder that holds the run directories."""
    return home() / "runs"


def embedded_store() -> Path:
    """Return the Ollama-layout store that is shipped inside the package."""
    return Path(str(resources.files("llamaforge") / "embedded" / "store"))


def embedded_data() -> Path:
    """Return the demo's data file that is shipped inside the package."""
    return Path(str(resources.files("llamaforge") / "embedded" / "data" / "memory.jsonl"))


@dataclass(frozen=True)
class StorePlace:
    """A folder where an Ollama store may lie."""

    root: Path
    owner: str
    """Whose it is, in words that follow "the store of"."""


def store_places() -> tuple[StorePlace, ...]:
    """Return where Ollama keeps models on this machine, the likeliest place first, each once.

    These are `$OLLAMA_MODELS`, the user's own store, and on Linux those of service installs.
    Nothing is said of whether they exist. Source: `envconfig/config.go` and
    `scripts/install.sh` of Ollama.
    """
    places = []
    explicit = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    if explicit:
        places.append(StorePlace(Path(explicit).expanduser().absolute(), "OLLAMA_MODELS"))
    places.append(StorePlace(Path.home() / ".ollama" / "models", "this user"))
    if sys.platform.startswith("linux"):
        places += [
            StorePlace(Path("/usr/share/ollama/.ollama/models"), "the Ollama service"),
            StorePlace(Path("/var/lib/ollama/.ollama/models"), "the Ollama service"),
        ]
    found: dict[Path, StorePlace] = {}
    for place in places:
        found.setdefault(_real(place.root), place)
    return tuple(found.values())


def _real(place: Path) -> Path:
    try:
        return place.resolve()
    except (OSError, RuntimeError):  # links in a circle, or a folder that may not be entered
        return place
