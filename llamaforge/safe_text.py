"""Text from outside made safe to print: what a terminal would obey becomes visible."""

import re
import unicodedata

_VISIBLE = {"\n": "\n", "\t": "\t"}
_SECRETS = re.compile(
    r"(?P<hf>\bhf_[A-Za-z0-9]{8,})"
    r"|(?P<bearer>(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,})"
    r"|(?P<url>(?<=://)[^/\s:@]+:[^/\s@]+(?=@))"
)


def _visible(char: str) -> str:
    """Return `char` as it may be printed: itself, or an escape such as `\\x1b` or `\\u202e`."""
    if char in _VISIBLE:
        return char
    # Cc: C0/C1 controls; Cf: bidirectional and zero-width marks; Cs: lone surrogates;
    # Zl/Zp: separators that some terminals treat as line ends.
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        point = ord(char)
        if point < 0x100:
            return f"\\x{point:02x}"
        return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
    return char


def safe_text(text: str, *, limit: int | None = None) -> str:
    """Return `text` with control, bidirectional and zero-width characters made visible.

    New lines and tabs stay. With `limit`, at most that many characters, the last of them `…`.
    The result is plain text: give it to Rich and Textual with markup off.
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    return "".join(map(_visible, text))


def safe_line(text: str, *, limit: int | None = None) -> str:
    """Return `safe_text` on one line: runs of white space become one space."""
    return safe_text(" ".join(text.split()), limit=limit)


def redact(text: str) -> str:
    """Return `text` with access tokens and credentials in URLs replaced by `***`."""
    return _SECRETS.sub("***", text)
