"""Which runs were trained on which frozen rows."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from llamaforge import paths


def runs_by_snapshot() -> Mapping[str, Sequence[str]]:
    """Return the names of the runs that were trained on each snapshot, by its id."""
    found: dict[str, list[str]] = defaultdict(list)
    for manifest in sorted(paths.runs_folder().glob("*/data/manifest.json")):
        try:
            body = json.loads(manifest.read_bytes())
            found[str(body["id"])].append(manifest.parents[1].name)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
