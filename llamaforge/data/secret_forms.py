"""The forms of secrets: private keys, tokens of well-known providers, assigned random values.

Sources: the providers' pages on their token formats (GitHub, GitLab, Slack, Stripe, AWS IAM
identifiers, Google API keys, RFC 7468 for keys, RFC 7519 for JWT) and the rules of gitleaks.
"""

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_FEWEST_BITS: Final = 3.2
"""Shannon entropy in bits a character from which a value is random: English words have 2 to 3."""


def words_of(text: str) -> frozenset[str]:
    """Return the words of `text`, which are parted by spaces."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of finding."""

    kind: str
    hints: tuple[str, ...]
    """A text without any of these holds none; looking for them is a hundred times faster. They
    are looked for in the text as it is, or in lower case where the pattern ignores case."""
    pattern: re.Pattern[str]
    """Group `value`, if there is one, is what is masked; else the whole match."""
    accepts: Callable[[re.Match[str]], bool] = lambda _: True

    @property
    def group(self) -> str | int:
        """The group of the pattern that is the finding."""
        return "value" if "value" in self.pattern.groupindex else 0


def form(
    kind: str,
    hints: str,
    pattern: str,
    accepts: Callable[[re.Match[str]], bool] = lambda _: True,
    flags: int = 0,
) -> Form:
    """Return a form whose `hints` are parted by spaces."""
    return Form(kind, tuple(hints.split()), re.compile(pattern, flags), accepts)


def entropy(text: str) -> float:
    """Return the Shannon entropy of the characters of `text`, in bits a character."""
    size = len(text)
    return -sum(n / size * math.log2(n / size) for n in Counter(text).values()) if size else 0.0


def _value(match: re.Match[str]) -> str:
    return match["value"] if "value" in match.re.groupindex else match.group()


_PLACEHOLDER: Final = re.compile(
    r"""example|your|change.?me|placeholder|dummy|sample|redacted|insert|replace|xxx|\*\*\*|\.\.\.|1234567890|abcdefgh
    |my[-_]|<|>|\$|\{|%|process\.env|environ|getenv|secrets?\.|config|settings""",
    re.IGNORECASE | re.VERBOSE,
)


def _is_random(match: re.Match[str]) -> bool:
    """Return whether the value looks drawn at random: a digit, a letter, and many characters."""
    value = _value(match)
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and entropy(value) >= _FEWEST_BITS


_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CALL_OR_PATH: Final = re.compile(r"[\\/()\[\]:;,]|\.\w{1,5}$")


def _is_assigned_secret(match: re.Match[str]) -> bool:
    """Return whether a value with a telling name is a secret and no stand-in for one."""
    value = _value(match)
    if _PLACEHOLDER.search(value) or _UUID.fullmatch(value):
        return False
    # base64 may hold "/"; a path or an expression has no run of twenty other characters.
    if _CALL_OR_PATH.search(value) and not re.search(r"[A-Za-z0-9+]{20}", value):
        return False
    words = re.fullmatch(r"[A-Za-z]+\d{0,4}(?:[-_.][A-Za-z]+\d{0,4})*", value)
    return not words and _is_random(match)


def _is_jwt(match: re.Match[str]) -> bool:
    """Return whether the first part is a JSON object that names an algorithm."""
    head = match.group().partition(".")[0]
    try:
        fields = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "alg" in fields


_COMMON_PASSWORDS: Final = words_of(
    "password pass passwd pwd secret postgres root admin user guest test example mysql changeme"
    " username token mypassword yourpassword xxx redis rabbitmq mongo"
)


def _is_url_password(match: re.Match[str]) -> bool:
    password = match["value"]
    if password.islower() and password.isalpha() and len(password) < 10:
        return False  # a word: of a template, or of an example
    return (
        password.lower() not in _COMMON_PASSWORDS
        and password != match["user"]
        and not _PLACEHOLDER.search(password)
        and not re.match(r"localhost|127\.|\[::1|[^/]*\bexample\b", match["host"], re.IGNORECASE)
    )


SECRET_FORMS: Final = (
    # The words "BEGIN PRIVATE KEY" alone are documentation; a key follows them with its bytes.
    form(
        "private_key",
        "PRIVATE",
        r"-----BEGIN (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:\s|\\[nr]|[A-Z][A-Za-z-]*:[^\n]*\n){0,12}"
        # Lines of a key, which words after a key without an end are not.
        r"[A-Za-z0-9+/=]{16,}(?:(?:\s|\\[nr]){1,8}[A-Za-z0-9+/=]{16,})*"
        r"(?:(?:\s|\\[nr]){0,8}[A-Za-z0-9+/=]{0,80}(?:\s|\\[nr]){0,8}"
        r"-----END [A-Z ]{0,40}KEY(?: BLOCK)?-----)?",
    ),
    form("aws_access_key", "AKIA ASIA", r"(?<![A-Za-z0-9])A(?:KI|SI)A[A-Z0-9]{16}(?![A-Za-z0-9])"),
    form(
        "aws_secret_key",
        "aws",
        r"aws.{0,20}?(?:secret|key).{0,20}?[=:]\s{0,3}[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        _is_random,
        re.IGNORECASE,
    ),
    form(
        "github_token",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        r"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255})(?!\w)",
        _is_random,
    ),
    form(
        "gitlab_token",
        "glpat- gldt- glrt- glptt- glcbt- glsoat-",
        r"(?<![\w-])gl(?:pat|dt|rt|ptt|cbt|soat)-[\w.-]{19,}\w",
        _is_random,
    ),
    form(
        "slack_token",
        "xoxb- xoxp- xoxa- xoxr- xoxs- xoxe- xapp-",
        r"(?<![\w-])(?:xox[abeprs]-(?:\d-)?|xapp-\d-)[A-Za-z0-9-]{15,}",
        _is_random,
    ),
    form(
        "slack_webhook",
        "hooks.slack.com",
        r"https://hooks\.slack\.com/(?:services|workflows)/[A-Z0-9]{6,}/[A-Z0-9]{6,}/[A-Za-z0-9/]{16,}",
        _is_random,
    ),
    form(
        "stripe_key",
        "sk_live_ rk_live_ sk_test_ rk_test_ whsec_",
        r"(?<![A-Za-z0-9_])(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,})",
        _is_random,
    ),
    form("anthropic_key", "sk-ant-", r"(?<![\w-])sk-ant-[a-z0-9]{2,12}-[\w-]{20,}", _is_random),
    form(
        "openai_key",
        "sk-",
        r"(?<![\w-])sk-(?!ant-)(?:(?:proj|svcacct|admin|None)-[\w-]{20,}|[A-Za-z0-9]{32,})(?![\w-])",
        _is_random,
    ),
    form(
        "huggingface_token",
        "hf_",
        r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}(?!\w)",
        lambda m: entropy(m.group()[3:]) >= _FEWEST_BITS,
    ),
    form("google_key", "AIza", r"(?<![\w-])AIza[\w-]{35}(?![\w-])", _is_random),
    form(
        "google_secret",
        "GOCSPX- ya29.",
        r"(?<![\w-])(?:GOCSPX-[\w-]{20,}|ya29\.[\w-]{30,})",
        _is_random,
    ),
    form("npm_token", "npm_", r"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}(?!\w)", _is_random),
    form("pypi_token", "pypi-", r"(?<![\w-])pypi-[\w-]{50,}", _is_random),
    form("sendgrid_key", "SG.", r"(?<![\w.])SG\.[\w-]{16,32}\.[\w-]{32,64}(?![\w-])", _is_random),
    form("jwt", "eyJ", r"(?<![\w.-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{16,}(?![\w-])", _is_jwt),
    form(
        "url_password",
        "://",
        r"\b[a-z][a-z0-9+.-]{1,20}://(?P<user>[^\s/:@\"'<>]{1,64}):(?P<value>[^\s/:@\"'<>]{4,128})@(?P<host>[\w\[.:-]{1,255})",
        _is_url_password,
    ),
    # Names must end in the telling word (`max_tokens` and `tokenizer` do not), values be quoted.
    form(
        "assigned_secret",
        "key secret token passw pwd credential passphrase",
        r"(?:api[_-]?key|secret(?:[_-]?key)?|(?:access|private|auth|encryption|signing)[_-]?key"
        r"|token|passw(?:or)?d|passphrase|pwd|credentials?)"
        r"(?:\\?[\"'])?\]?\s{0,4}(?:=>|:=|[=:])\s{0,4}\\?(?P<quote>[\"'`])"
        r"(?P<value>[^\s\"'`\\]{16,256})\\?(?P=quote)",
        _is_assigned_secret,
        re.IGNORECASE,
    ),
    # A line of a .env file.
    form(
        "assigned_secret",
        "KEY= SECRET= TOKEN= PASSWORD= PASSWD= PWD=",
        r"^[ \t]{0,8}(?:export )?[A-Z][A-Z0-9_]{0,60}"
        r"(?:(?:API|ACCESS|SECRET|PRIVATE|AUTH|ENCRYPTION|SIGNING)_?KEY|SECRET|TOKEN|PASSWORD"
        r"|PASSWD|PWD)=(?P<value>[A-Za-z0-9+/=_.~-]{16,256})[ \t]*$",
        _is_assigned_secret,
        re.MULTILINE,
    ),
)
