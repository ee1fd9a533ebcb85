"""Whether the images that rows link to are there: asked only where a person wants it.

Addresses are asked with HEAD, and with GET where a server does not know that; nothing of an answer
is kept. Paths are looked up beside the file that names them.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from llamaforge.data.containers import rows
from llamaforge.data.images import addresses_in
from llamaforge.data.raw_rows import Row
from llamaforge.data.records import source_name
from llamaforge.data.row_refs import RowRef
from llamaforge.safe_text import safe_line

MOST_LINKS: Final = 10_000
"""Different links that are looked up; what is beyond them is counted."""
_AT_ONCE: Final = 8
_SECONDS: Final = 10.0
_UNKNOWN_METHOD: Final = frozenset(
    {httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED, httpx.codes.FORBIDDEN}
)


@dataclass(frozen=True, slots=True)
class BrokenLink:
    """A link behind which nothing was found."""

    ref: RowRef
    """The first row that has it."""
    address: str
    """As the row has it; not yet safe to print."""
    reason: str
    """One clause that is safe to print."""

    def to_json(self) -> dict[str, Any]:
        """Return `{"source", "line", "address", "reason"}`."""
        return self.ref.to_json() | {"address": self.address, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What became of the links of some files."""

    links: int
    """Different links."""
    looked_up: int
    broken: tuple[BrokenLink, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        broken = [link.to_json() for link in self.broken]
        return {"links": self.links, "looked_up": self.looked_up, "broken": broken}


def check_links(paths: Iterable[Path], on_progress: Callable[[int, int], None]) -> LinkReport:
    """Look up every image that rows of `paths` link to.

    Args:
        paths: data files.
        on_progress: takes how many links were looked up, and how many there are.

    Raises:
        LlamaForgeError: a file cannot be read.
    """
    found: dict[str, tuple[RowRef, Path]] = {}
    for path in paths:
        for ref, address in _links(path):
            found.setdefault(address, (ref, path.parent))
    chosen = list(found.items())[:MOST_LINKS]
    broken = []
    with (
        httpx.Client(timeout=_SECONDS, follow_redirects=True) as client,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        asked = pool.map(lambda item: _reason(client, item[0], item[1][1]), chosen)
        for number, ((address, (ref, _)), reason) in enumerate(
            zip(chosen, asked, strict=True), start=1
        ):
            if reason:
                broken.append(BrokenLink(ref, address, reason))
            on_progress(number, len(chosen))
    return LinkReport(len(found), len(chosen), tuple(broken))


def _links(path: Path) -> Iterator[tuple[RowRef, str]]:
    name = source_name(path)
    for row in rows(path):
        if isinstance(row, Row):
            for address in addresses_in(row.fields):
                yield RowRef(name, row.row), address


def _reason(client: httpx.Client, address: str, folder: Path) -> str:
    """Return why a link leads nowhere, in one clause; nothing where something is there."""
    try:
        scheme = urlsplit(address).scheme.lower()
    except ValueError:
        return "it is no address"
    if scheme in {"http", "https"}:
        return _answer(client, address)
    if "://" in address and scheme != "file":
        return f"addresses that begin with {safe_line(scheme, limit=20)}: cannot be looked up"
    try:
        place = folder / Path(address.removeprefix("file://")).expanduser()
        return "" if place.is_file() else "there is no such file"
    except (OSError, ValueError, RuntimeError):
        return "it is no path"


def _answer(client: httpx.Client, address: str) -> str:
    try:
        status = client.head(address).status_code
        if status in _UNKNOWN_METHOD:
            with client.stream("GET", address) as response:
                status = response.status_code
    except httpx.TimeoutException:
        return f"no answer within {_SECONDS:g} seconds"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return safe_line(str(error), limit=80) or type(error).__name__
    return "" if status < httpx.codes.BAD_REQUEST else f"the server answers {status}"
