"""Whether a dataset that is named as rows can be fetched at all: asked before a run is made."""

from typing import Any, Final

import httpx

from llamaforge.catalog.bounded import parse_json
from llamaforge.catalog.hub_http import Patience, endpoint, open_client
from llamaforge.errors import InvalidFileError, LlamaForgeError, NotFoundError, RefusedError
from llamaforge.safe_text import redact, safe_line

_PATIENCE: Final = Patience(silence_seconds=5)
_MOST_BYTES: Final = 16_000_000
_ABSENT: Final = frozenset({401, 404, 410})
"""401 is what the Hub answers to one without a token who names what is not there."""


def check_dataset(name: str, patience: Patience = _PATIENCE) -> None:
    """Return unless the Hub says that nobody here can have the dataset `name`, `owner/name`.

    One request is made, and none where `HF_HUB_OFFLINE` is set. What the network leaves open is
    left to the run: the rows may be in the cache.

    Raises:
        NotFoundError: there is no such dataset, or it is private (`no_dataset`).
        RefusedError: its makers let in some people only, and nobody is logged in
            (`gated_dataset`).
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    shown, page = safe_line(name, limit=120), f"{redact(endpoint())}/datasets/{name}"
    try:
        with open_client(patience) as client:
            status, body = _about(client, f"{endpoint()}/api/datasets/{name}")
            is_known = "Authorization" in client.headers
    except (httpx.HTTPError, httpx.InvalidURL, LlamaForgeError):
        return
    if status in _ABSENT:
        raise NotFoundError(
            f"The dataset {shown} is not on the Hub, or is private.",
            f"Check the name at {page}; for a private one: hf auth login",
            code="no_dataset",
        )
    if (status == 403 or body.get("gated")) and not is_known:
        raise RefusedError(
            f"The dataset {shown} may be fetched only by those whom its makers have let in.",
            f"Ask for access at {page}, then log in as that user with: hf auth login",
            code="gated_dataset",
        )


def _about(client: httpx.Client, url: str) -> tuple[int, dict[str, Any]]:
    """Return the status of the answer, and what it says if that is an object."""
    data = bytearray()
    with client.stream("GET", url) as response:
        for piece in response.iter_raw():
            data += piece
            if len(data) > _MOST_BYTES:
                raise httpx.DecodingError("the answer is far too long")
        status = response.status_code
    try:
        body = parse_json(bytes(data) or b"{}", "the Hub's answer")
    except InvalidFileError:
        body = {}
    return status, body if isinstance(body, dict) else {}
