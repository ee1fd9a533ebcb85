"""Where the Ollama server is: `OLLAMA_HOST` read as Ollama itself reads it.

Source of the rules: `envconfig/config.go` of Ollama.
"""

import ipaddress
import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from llamaforge.errors import UsageError
from llamaforge.safe_text import redact, safe_line

_DEFAULT_PORT: Final = 11434
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_HINT: Final = "Write it as HOST:PORT, such as OLLAMA_HOST=127.0.0.1:11434."


@dataclass(frozen=True)
class Host:
    """A server's address."""

    url: str
    """`http://127.0.0.1:11434`, with the path if one was given and no slash at the end."""
    name: str
    """The host alone, an IPv6 address without brackets."""
    is_loopback: bool
    """Whether what is sent there stays on this machine."""


def resolve_host(text: str | None = None) -> Host:
    """Return the server that `text` names; without it, the one of `OLLAMA_HOST`, else Ollama's own.

    A host without a scheme has port 11434, `http://` means port 80 and `https://` 443. An address
    to listen on (`0.0.0.0`, `::`) becomes the loopback address of its family: it is no place to
    connect to.

    Raises:
        UsageError: it is not an address of a web server, or carries a user or a password.
    """
    given = (os.environ.get("OLLAMA_HOST", "") if text is None else text).strip().strip("\"'")
    scheme, separator, rest = given.partition("://")
    if not separator:
        scheme, rest = "http", given
    scheme = scheme.lower()
    if scheme not in _SCHEME_PORTS:
        raise _bad(given, "only http and https are known")
    default_port = _SCHEME_PORTS[scheme] if separator else _DEFAULT_PORT
    if _address(rest) is not None and ":" in rest:
        rest = f"[{rest}]"  # a bare IPv6 address, whose colons are not a port's
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port
    except ValueError as error:
        raise _bad(given, "its port or its address is not valid") from error
    return _host(given, scheme, parts, default_port if port is None else port)


def _host(given: str, scheme: str, parts: SplitResult, port: int) -> Host:
    if parts.username is not None or parts.query or parts.fragment:
        raise _bad(given, "it must be a host, a port and nothing else")
    name = parts.hostname or "127.0.0.1"
    if any(char.isspace() or not char.isprintable() for char in name):
        raise _bad(given, "its host is not valid")
    address = _address(name)
    if address is not None and address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        name = str(address)
    shown = f"[{name}]" if ":" in name else name
    path = parts.path.strip("/")
    url = f"{scheme}://{shown}:{port}" + (f"/{path}" if path else "")
    return Host(url, name, _is_loopback(name, address))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if address is None:
        return name.lower().rstrip(".") == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _bad(given: str, why: str) -> UsageError:
    shown = safe_line(redact(given), limit=80)
    return UsageError(
        f"{shown!r} is not the address of an Ollama server: {why}.", _HINT, code="bad_host"
    )
