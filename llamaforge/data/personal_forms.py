"""The forms of personal data: e-mail, phone, payment cards, IBAN, IP addresses.

Sources: RFC 5322 and 2606 (e-mail, reserved domains), ITU-T E.164 (country codes), ISO/IEC 7812
(card prefixes, Luhn), ISO 13616 and the SWIFT registry (IBAN lengths), RFC 6890 (addresses that
name no machine).
"""

import ipaddress
import re
from typing import Final

from llamaforge.data.secret_forms import form, words_of

_FILE_ENDINGS: Final = words_of(
    "png jpg jpeg gif svg webp css js ts jsx tsx json py html htm xml yml yaml md txt pdf zip gz"
    " tar mp3 mp4 ico woff local localhost internal invalid lan"
)
_STAND_INS: Final = words_of(
    "user username name you your email mail test foo bar someone somebody me admin info example"
    " sample noreply no-reply john.doe jane.doe johndoe janedoe"
)
_RESERVED: Final = re.compile(
    r"(?:^|\.)(?:example|test)(?:\.\w+)?$|^(?:domain|email|company)\.com$"
)
_REMOTES: Final = frozenset({"git", "hg", "svn"})


def _is_email(match: re.Match[str]) -> bool:
    """Return whether it may be somebody's: not `icon@2x.png`, `git@host` or `you@example.com`."""
    local, _, domain = match.group().lower().rpartition("@")
    if domain.rpartition(".")[2] in _FILE_ENDINGS or local in _REMOTES or ".." in local:
        return False
    return not (_RESERVED.search(domain) and local in _STAND_INS)


# ITU-T E.164 assigned country codes, 2024.
_COUNTRY_CODE: Final = re.compile(
    r"1|7|2[07]|2[1234568]\d|29[0-9]|3[0123469]|3[578]\d|4[013456789]|42\d|5[12345678]|50\d|59\d"
    r"|6[0123456]|6[789]\d|8[12346]|8[05]\d|88\d|9[0123458]|9[679]\d"
)
_NANP: Final = re.compile(r"1?[2-9]\d{2}[2-9]\d{6}")


def _is_phone(match: re.Match[str]) -> bool:
    """Return whether the digits are a number that could be called, and not a sum or an id."""
    digits = re.sub(r"\D", "", match.group())
    text = match.group()
    if text.startswith("("):
        return _NANP.fullmatch(digits) is not None
    if text.startswith("00"):
        digits = digits[2:]
    elif not text.startswith("+"):
        return False
    if not 8 <= len(digits) <= 15 or not _COUNTRY_CODE.match(digits):
        return False
    if digits[0] == "1" and not _NANP.fullmatch(digits):
        return False
    return len(set(digits)) > 3 and not digits.endswith("00000")


# ISO/IEC 7812: who issues numbers that begin so, and how long these are.
_CARD: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|62\d{14,17}"
)


def luhn_is_right(digits: str) -> bool:
    """Return whether the last of `digits` is the check digit of the others (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match.group())
    return _CARD.fullmatch(digits) is not None and len(set(digits)) > 1 and luhn_is_right(digits)


_IBAN_COUNTRIES: Final = {
    15: "NO", 16: "BE", 18: "DK FO FI GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
    30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
"""Countries by how many characters their IBAN has."""
_IBAN_LENGTHS: Final = {
    country: size for size, listed in _IBAN_COUNTRIES.items() for country in listed.split()
}


def iban_is_right(text: str) -> bool:
    """Return whether `text`, without spaces, has its country's length and check digits."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text) or not (text.isascii() and text.isalnum()):
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def _iban_pattern() -> str:
    """Return a pattern in which the country says how long an IBAN is.

    Words behind it are then not taken for its end. What may not stand before a finding is asked
    after its first characters here and below: a pattern that begins with a plain class of
    characters is searched for several times faster.
    """
    ways = [
        rf"(?<=(?:{listed.replace(' ', '|')})\d\d)(?: ?[A-Z0-9]){{{size - 4}}}"
        for size, listed in _IBAN_COUNTRIES.items()
    ]
    return rf"[A-Z]{{2}}\d\d(?<![A-Za-z0-9]....)(?:{'|'.join(ways)})(?![A-Za-z0-9])"


def _is_iban(match: re.Match[str]) -> bool:
    return iban_is_right(match.group().replace(" ", ""))


_VERSION_BEFORE: Final = re.compile(
    r"(?:version|ver|release|build|firmware|driver|update|oid|section|chapter|§|clause|rule|v)"
    r"[\s:.=\"'#(-]{0,4}$|[A-Za-z]/$|[-@^~]=?$|[<>=]=$",
    re.IGNORECASE,
)


def _is_ipv4(match: re.Match[str]) -> bool:
    """Return whether it is a public address, and neither a version nor a section number."""
    octets = [int(part) for part in match.group().split(".")]
    if max(octets) > 255 or any(len(p) > 1 and p[0] == "0" for p in match.group().split(".")):
        return False
    before = match.string[max(match.start() - 16, 0) : match.start()]
    if max(octets) < 32 or octets[1:] == [0, 0, 0] or _VERSION_BEFORE.search(before):
        return False
    return ipaddress.IPv4Address(match.group()).is_global and octets[0] < 224


def _is_ipv6(match: re.Match[str]) -> bool:
    """Return whether it is a global unicast address (2000::/3)."""
    try:
        address = ipaddress.IPv6Address(match.group())
    except ValueError:
        return False
    return address.is_global and int(address) >> 125 == 1 and match.group().count(":") >= 3


PERSONAL_FORMS: Final = (
    form(
        "email",
        "@",
        r"(?<![\w.+/:@%-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
        r"[A-Za-z]{2,24}(?![\w@-]|\.\w|:\w*/)",
        _is_email,
    ),
    form("iban", "", _iban_pattern(), _is_iban),
    form(
        "card",
        "",
        r"\d(?<![\w.,+#/$€£-].)"
        r"(?:\d{12,18}|\d{3}(?P<sep>[ -])\d{4}(?P=sep)\d{4}(?P=sep)\d{4}(?:(?P=sep)\d{3})?"
        r"|\d{3}(?P<gap>[ -])\d{6}(?P=gap)\d{4,5})(?![\w-]|[.,]\d)",
        _is_card,
    ),
    form(
        "phone",
        "+",
        r"\+(?<![\w+.,=/*^-].)(?<!\d .)(?<!\) .)"
        r"[1-9]\d{0,3}(?:[ ./-]{0,2}\(?\d{1,5}+\)?){2,6}+(?![\w+*=/^]|[.,]\d|-\w)",
        _is_phone,
    ),
    form(
        "phone",
        "00",
        r"00(?<![\w+.,=/*^:-]..)(?=[1-9]\d{0,2}[ ./-])(?<!\d ..)"
        r"[1-9]\d{0,2}(?:[ ./-]{0,2}\(?\d{1,5}+\)?){2,6}+(?![\w+*=/^]|[.,]\d|-\w)",
        _is_phone,
    ),
    form(
        "phone",
        "(",
        r"\((?<![\w)].)[2-9]\d{2}\) ?[2-9]\d{2}[-. ]\d{4}(?![\w-]|\.\d)",
        _is_phone,
    ),
    form(
        "ip_address",
        ".",
        r"\d(?<![\w.:-].)\d{0,2}(?:\.\d{1,3}){3}(?![\w-]|\.\w)",
        _is_ipv4,
    ),
    form(
        "ip_address",
        ":",
        r"[23](?<![\w:.].)[0-9a-fA-F]{3}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{0,4}(?![\w:.])",
        _is_ipv6,
    ),
)
