"""What can go wrong with the Hub, each with what to do about it.

Source of what status codes and `X-Error-Code` mean: `huggingface_hub.utils.hf_raise_for_status`.
"""

import re
from collections.abc import Mapping
from typing import Final

import httpx

from llamaforge.errors import ExitCode, LlamaForgeError, NotFoundError, RefusedError
from llamaforge.safe_text import redact, safe_line
from llamaforge.words import size_words

_BAD_CREDENTIALS: Final = "Invalid credentials in Authorization header"
_RATE: Final = re.compile(r"\bt\s*=\s*(\d{1,6})\b", re.ASCII)


class HubError(LlamaForgeError):
    """The Hub did not give what was asked for."""


class HubNotFoundError(NotFoundError):
    """The Hub has no such repository, revision or file."""


class HubRefusedError(RefusedError):
    """The repository, or this machine's disk, is not fit for a download."""


class DownloadStoppedError(LlamaForgeError):
    """A person asked for the download to end. What has been fetched is kept."""

    exit_code = ExitCode.INTERRUPTED


def offline_by_choice(repo: str) -> HubError:
    """Return the error for a request where the environment forbids all of them."""
    return HubError(
        f"{safe_line(repo)} cannot be looked up: HF_HUB_OFFLINE forbids it.",
        "Unset HF_HUB_OFFLINE, or use a base that is in the cache already.",
        code="hub_offline",
    )


def no_answer(error: Exception, endpoint: str) -> HubError:
    """Return the error for a request that ended without a whole answer."""
    host = safe_line(redact(endpoint), limit=80)
    reason = safe_line(redact(str(error) or type(error).__name__), limit=120)
    if isinstance(error, httpx.TimeoutException):
        return HubError(
            f"{host} did not answer in time ({reason}).",
            "Try again; what has been fetched is kept.",
            code="hub_timeout",
        )
    if isinstance(error, httpx.NetworkError | httpx.ProxyError | httpx.RemoteProtocolError):
        return HubError(
            f"{host} cannot be reached, or broke the connection ({reason}).",
            "Check the network, HF_ENDPOINT and the proxy, then try again; "
            "what has been fetched is kept.",
            code="hub_offline",
        )
    return bad_answer(host, reason)


def bad_answer(host: str, reason: str) -> HubError:
    """Return the error for an answer that no Hub gives."""
    return HubError(
        f"{safe_line(redact(host), limit=80)} does not answer as a Hugging Face Hub: {reason}.",
        "Check HF_ENDPOINT; behind a portal or a proxy, log in there first.",
        code="hub_answer",
    )


def bad_proxy(error: Exception) -> HubError:
    """Return the error for a proxy in the environment that cannot be used."""
    return HubError(
        f"The proxy of the environment cannot be used: {safe_line(redact(str(error)), limit=120)}",
        "Correct or unset HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; http:// is understood.",
        code="hub_proxy",
    )


def too_slow(endpoint: str) -> HubError:
    """Return the error for a file that comes by a few bytes a minute."""
    return no_answer(httpx.ReadTimeout("almost nothing came for a minute"), endpoint)


def refusal(
    status: int, headers: Mapping[str, str], repo: str, revision: str, endpoint: str
) -> LlamaForgeError:
    """Return the error for an answer with a status of 400 and above."""
    word = headers.get("X-Error-Code", "")
    page = f"{redact(endpoint)}/{repo}"
    if word == "RevisionNotFound":
        return HubNotFoundError(
            f"{repo} has no revision {safe_line(revision, limit=80)!r}.",
            f"See its branches and tags at {page}/tree/main",
            code="hub_no_revision",
        )
    if status == 401 and headers.get("X-Error-Message") == _BAD_CREDENTIALS:
        return bad_token()
    if word == "GatedRepo" or (status == 403 and word != "RepoNotFound"):
        return _no_access(word, headers, repo, page)
    if status in {401, 404, 410} or word == "RepoNotFound":
        # 401 is what the Hub answers to one without a token who names what is not there.
        return HubNotFoundError(
            f"{repo} is not on the Hub, or is private.",
            f"Check the name at {page}; for a private one: hf auth login",
            code="hub_not_found",
        )
    return _passing(status, headers)


def _no_access(word: str, headers: Mapping[str, str], repo: str, page: str) -> HubError:
    if word == "GatedRepo":
        return HubError(
            f"{repo} may be fetched only by those whom its makers have let in.",
            f"Ask for access at {page}, then log in as that user with: hf auth login",
            code="hub_gated",
        )
    reason = safe_line(redact(headers.get("X-Error-Message", "")), limit=120)
    return HubError(
        f"The Hub does not let this user fetch {repo}" + (f" ({reason})." if reason else "."),
        f"See {page}, and the rights of the token in the settings of that account.",
        code="hub_forbidden",
    )


def _passing(status: int, headers: Mapping[str, str]) -> HubError:
    """Return the error for what may be over in a while."""
    if status != 429:
        return HubError(
            f"The Hub failed with status {status}.",
            "Try again later; what has been fetched is kept.",
            code="hub_failed",
        )
    wait = retry_after_seconds(headers)
    when = "later" if wait is None else f"in {wait} s"
    return HubError(
        "The Hub takes no more requests from here for now.",
        f"Try again {when}; with an account more are allowed: hf auth login",
        code="hub_rate_limited",
    )


def bad_token() -> HubError:
    """Return the error for an access token that is none, or no longer one."""
    return HubError(
        "The Hub does not accept the access token.",
        "Log in again with: hf auth login; or unset HF_TOKEN",
        code="hub_token",
    )


def retry_after_seconds(headers: Mapping[str, str]) -> int | None:
    """Return for how long the Hub asks to be left alone, None where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,6}", text, re.ASCII):
        return int(text)
    found = _RATE.search(headers.get("RateLimit", ""))  # `"api";r=0;t=55`
    return None if found is None else int(found[1])


def wrong_content(name: str, expected: str, actual: str) -> HubError:
    """Return the error for a file whose content is not that of the commit."""
    return HubError(
        f"{name} was fetched and is damaged: its digest is {actual[:12]}… instead of "
        f"{expected[:12]}….",
        "Nothing of it was kept: try again, over another network or without a mirror.",
        code="hub_checksum",
    )


def no_room(needed_bytes: int, free_bytes: int, place: str) -> HubRefusedError:
    """Return the error for a download that would fill the disk."""
    return HubRefusedError(
        f"The download needs {size_words(needed_bytes)}, and {size_words(free_bytes)} are free "
        f"at {place}.",
        "Free some space, or set HF_HOME to a folder on a larger disk.",
        code="no_disk_space",
    )


def disk_full(left_bytes: int, free_bytes: int, place: str) -> HubError:
    """Return the error for a disk that filled up on the way."""
    return HubError(
        f"The disk is full: {size_words(left_bytes)} are still to come, and "
        f"{size_words(free_bytes)} are free at {place}.",
        "Free some space and try again; what has been fetched is kept.",
        code="disk_full",
    )


def not_writable(place: str, reason: str) -> HubError:
    """Return the error for a cache that cannot be written."""
    return HubError(
        f"The cache at {place} cannot be written: {reason}.",
        "Set HF_HOME to a folder of your own.",
        code="hub_cache",
    )


def stopped(repo: str) -> DownloadStoppedError:
    """Return the error for a download that a person ended."""
    return DownloadStoppedError(
        f"The download of {repo} was stopped.",
        "What has been fetched is kept: start it again to go on.",
        code="stopped",
    )


def remote_code(repo: str) -> HubRefusedError:
    """Return the error for a repository whose files name code to run."""
    return HubRefusedError(
        f"{safe_line(repo)} needs code of its own to be run (auto_map), which is never done here.",
        "Use a base that transformers knows by itself, or train on the Ollama model: --from gguf",
        code="remote_code",
    )


def pickled(repo: str, name: str) -> HubRefusedError:
    """Return the error for a repository whose weights only `pickle` could read."""
    return HubRefusedError(
        f"{repo} has its weights as pickles only ({safe_line(name, limit=80)}), which may hold "
        "programs and are never opened.",
        "Name a repository with safetensors, or train on the Ollama model: --from gguf",
        code="pickled_weights",
    )


def no_base(repo: str, what: str, code: str) -> HubRefusedError:
    """Return the error for a repository that lacks what a base must have."""
    return HubRefusedError(
        f"{repo} has no {what}.",
        "Name the repository of the original weights, or train on the Ollama model: --from gguf",
        code=code,
    )
