"""A small template language: `{slot}` is filled from the word lists, `[a|b]` chooses.

`{city}` and `{city2}` are two draws from one list, never equal; `{a:job}` puts "a" or "an"
before it, `{A:job}` does the same at the start of a sentence, `{C:food}` starts it with a capital
and `{U:name}` writes it in capitals. `{number}`, `{age}`, `{date}` and `{clock}` are made, not
listed.
"""

import random
import re
from dataclasses import dataclass, field
from typing import Final

from tools.demo_store.words import MONTHS, SLOTS, made_up

_SLOT: Final = re.compile(r"\{(?:([aACU]):)?([a-z]+)(\d?)\}")
_CHOICE: Final = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
_COINED: Final = frozenset({"name", "city", "petname", "object", "word"})
"""The slots that may also hold a made-up word, so that copying cannot be replaced by recall."""


def with_article(noun: str) -> str:
    """Return the noun after its indefinite article."""
    vowel = noun[0].lower() in "aeio" or noun.startswith(("um", "unc"))
    return f"{'an' if vowel else 'a'} {noun}"


def capitalised(text: str) -> str:
    """Return the text with a capital first letter and the rest as it was."""
    return text[:1].upper() + text[1:]


@dataclass
class Filler:
    """Fills templates; within one filler a slot keeps its value, so texts agree with each other."""

    rng: random.Random
    coined_share: float = 0.0
    """The share of the slots in `_COINED` that get a made-up word (0 to 1)."""
    values: dict[str, str] = field(default_factory=dict)

    def __call__(self, template: str) -> str:
        """Return the template with its choices made and its slots filled."""
        while (match := _CHOICE.search(template)) is not None:
            chosen = self.rng.choice(match[1].split("|"))
            template = template[: match.start()] + chosen + template[match.end() :]
        return _SLOT.sub(self._replacement, template)

    def value(self, key: str) -> str:
        """Return the value of a slot such as `city2`, drawing it at its first use."""
        if key not in self.values:
            kind = key.rstrip("0123456789")
            taken = {v for k, v in self.values.items() if k.rstrip("0123456789") == kind}
            drawn = self._draw(kind)
            while drawn in taken:
                drawn = self._draw(kind)
            self.values[key] = drawn
        return self.values[key]

    def _draw(self, kind: str) -> str:
        rng = self.rng
        if kind == "number":
            return str(rng.choice((rng.randint(2, 12), rng.randint(2, 99), rng.randint(100, 999))))
        if kind == "age":
            return str(rng.randint(2, 90))
        if kind == "date":
            return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
        if kind == "clock":
            return f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '20', '30', '40', '45'))}"
        if kind == "word" or (kind in _COINED and rng.random() < self.coined_share):
            coined = made_up(rng)
            return coined if kind in {"word", "object"} else capitalised(coined)
        return rng.choice(SLOTS[kind])

    def _replacement(self, match: re.Match[str]) -> str:
        text = self.value(match[2] + match[3])
        match match[1]:
            case "a":
                return with_article(text)
            case "A":
                return capitalised(with_article(text))
            case "C":
                return capitalised(text)
            case "U":
                return text.upper()
            case _:
                return text
