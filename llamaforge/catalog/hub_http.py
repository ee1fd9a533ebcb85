"""Requests to the Hub: the user's own endpoint, token and proxy, and an end to every wait."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final
from urllib.parse import quote

import httpx

from llamaforge import __version__
from llamaforge.catalog import hub_errors

_MAX_ANSWER_BYTES: Final = 64_000_000
_MAX_REDIRECTS: Final = 10


@dataclass(frozen=True)
class Patience:
    """How long to wait for the Hub, in seconds, and how often to try again."""

    silence_seconds: float
    """For a connection, and then for the next piece of an answer."""
    answer_seconds: float = 60
    """For the whole answer about a repository."""
    attempts: int = 6
    """Of which none brings a file forward."""
    pause_seconds: float = 1
    """Before the second attempt; twice as long before each further one."""
    longest_pause_seconds: float = 30
    """Before any attempt, also where the Hub asks for a longer one."""
    slow_seconds: float = 60
    """A connection that brings less than `slow_bytes` in this time is given up."""
    slow_bytes: int = 16_384


def default_patience() -> Patience:
    """Return the patience of the Hugging Face libraries: `HF_HUB_DOWNLOAD_TIMEOUT`, else 10 s."""
    from huggingface_hub import constants

    return Patience(silence_seconds=constants.HF_HUB_DOWNLOAD_TIMEOUT)


def endpoint() -> str:
    """Return the address of the Hub: `HF_ENDPOINT`, else huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def refuse_when_offline(repo: str) -> None:
    """Return if requests are allowed.

    Raises:
        HubError: `HF_HUB_OFFLINE` is set (code `hub_offline`).
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise hub_errors.offline_by_choice(repo)


def open_client(patience: Patience) -> httpx.Client:
    """Return a client that follows redirects; the token goes to the Hub's own address only.

    Proxies and certificates are those of the environment. `httpx` itself drops the token where a
    redirect leads to another host, as those to the stores of large files do.

    Raises:
        HubError: the proxy of the environment is of no use (`hub_proxy`), or the token is no token
            (`hub_token`).
    """
    headers = {
        "User-Agent": f"llamaforge/{__version__}; hf_hub/{version('huggingface_hub')}",
        # A packed answer could unpack to any size, and could not be gone on with.
        "Accept-Encoding": "identity",
        **_authorization(),
    }
    try:
        return httpx.Client(
            headers=headers,
            timeout=patience.silence_seconds,
            follow_redirects=True,
            max_redirects=_MAX_REDIRECTS,
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise hub_errors.bad_proxy(error) from error


def file_url(repo: str, commit: str, name: str) -> str:
    """Return the address of a file of a commit."""
    return f"{endpoint()}/{repo}/resolve/{commit}/{quote(name)}"


def get_about(repo: str, revision: str, patience: Patience) -> bytes:
    """Return what the Hub says about a revision of `repo`, its files and their digests included.

    One request is made, and not repeated.

    Raises:
        HubError: no answer, or a refusal; see `hub_errors` for the codes.
        HubNotFoundError: no such repository or revision.
    """
    url = f"{endpoint()}/api/models/{repo}/revision/{quote(revision, safe='')}"
    deadline = time.monotonic() + patience.answer_seconds
    data = bytearray()
    try:
        with (
            open_client(patience) as client,
            client.stream("GET", url, params={"blobs": "true"}) as response,
        ):
            if response.is_error:
                raise hub_errors.refusal(
                    response.status_code, response.headers, repo, revision, endpoint()
                )
            refuse_packed(response.headers)
            for piece in response.iter_raw():
                data += piece
                if len(data) > _MAX_ANSWER_BYTES:
                    raise httpx.DecodingError("the answer is far too long")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer did not end in time")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise hub_errors.no_answer(error, endpoint()) from error
    return bytes(data)


def refuse_packed(headers: Mapping[str, str]) -> None:
    """Return if an answer is as it was asked for.

    Raises:
        httpx.DecodingError: it is packed.
    """
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise httpx.DecodingError("the answer is packed, which was not asked for")


def _authorization() -> dict[str, str]:
    """Return the header with the user's token, found as the Hugging Face libraries find it."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token is None:
        return {}
    if not (token.isascii() and token.isprintable()):
        raise hub_errors.bad_token()
    return {"Authorization": f"Bearer {token}"}
