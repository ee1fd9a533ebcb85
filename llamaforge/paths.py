"""Where things lie: the program's home, runs, the embedded store, Ollama's stores."""

import os
import sys
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


def default_store() -> Path:
    """Return the Ollama store to look at: `$OLLAMA_MODELS`, else the first that exists.

    The order after the variable is the user's own store, then those of Linux service installs.
    Where none exists the user's own place is returned, so that a message can name it.
    """
    explicit = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    if explicit:
        return Path(explicit).expanduser().absolute()
    own = Path.home() / ".ollama" / "models"
    candidates = [own]
    if sys.platform.startswith("linux"):
        candidates += [
            Path("/usr/share/ollama/.ollama/models"),
            Path("/var/lib/ollama/.ollama/models"),
        ]
    return next((place for place in candidates if _is_folder(place)), own)


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:
        return False
