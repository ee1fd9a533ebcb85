"""Exercises that teach copying: repeating, quoting, spelling, listing, looking up, rewriting."""

import json
import random
import re
from collections.abc import Callable
from typing import Final

from tools.demo_store.grammar import Filler, capitalised
from tools.demo_store.words import SLOTS, made_up

Exchange = tuple[str, str]
"""What the user says and what the assistant answers."""

_KINDS: Final = (
    "name", "city", "food", "petname", "object", "job", "hobby", "pet", "word", "event",
    "sign",
)  # fmt: skip
_LABELS: Final = {
    "name": "person", "city": "city", "food": "food", "petname": "pet", "object": "thing",
    "job": "job", "hobby": "hobby", "pet": "animal", "event": "event", "relation": "relative",
    "colour": "colour", "place": "place", "language": "language", "weekday": "day",
    "month": "month", "date": "date", "sign": "sign", "drink": "drink", "feeling": "feeling",
}  # fmt: skip
_CARRIERS: Final = (
    "[Yesterday|Today|Last week] I [saw|heard|read] about {x} [at the {place}|near {city}|again].",
    "{name9} [told me|talked|asked me|wrote to us] about {x}.",
    "We [spoke|thought|heard] about {x} on {weekday}[| at {clock}].",
    "I [know|remember|found|like] {x}[| very well| from {city9}].",
    "{X} [was|is] in the [news|letter|story|list|book].",
    "[At the {place}|In {city9}|On {weekday}] there was something about {x}.",
)
_FRAMES: Final = ('""', "()", "[]", "{}", "<>", "''", "**")
_FRAME_NAMES: Final = (
    "quotes", "round brackets", "square brackets", "braces", "angle brackets", "single quotes",
    "stars",
)  # fmt: skip
_STORIES: Final = (
    "{name} [lives|works|stays|was] in {city}[.| with {name2}.| near the {place}.]",
    "{name} [bought|sold|lost] {a:object} in {city}.",
    "{name}'s {pet} {petname} [sleeps|runs|plays] near the {object}.",
    "My {relation} {name} [eats|hates|likes|brings] {food}.",
    "My {relation} {name} [lives|works|was seen] in {city}.",
    "{name}, {a:job} from {city}, [likes|hates] {hobby}.",
    "On {date} we [have|go to|plan] {a:event} in {city}.",
    "The {event} with {name} [is|was] on {date}.",
    "I [have|had|found] {a:colour} {pet} called {petname}.",
    "{petname} the {pet} [ate|smelled|stole] {food}.",
    "{name} [feeds|walks|visits] {petname}, the {pet} from {city}.",
    "My {relation} calls the {pet} {petname}.",
    "[Dear|Little|Old] {petname} [met|followed|saw] {petname2} near the {place}.",
    "{petname} and {name} went from {city} to {city2}.",
    "{name} [drinks|makes|orders] {drink} on {weekday}.",
    "{name} is {feeling} in {month}, says my {relation}.",
    "In {city} I [met|saw|called] {name}, {a:job}.",
    "[They|We] spoke {language} at the {place} in {city}.",
    "{food} and {food2} are what {name} [wants|needs|eats] on {weekday}.",
    "{name} works as {a:job} and knows {name2} from {city}.",
)
_PART: Final = re.compile(r"\{(?:a:)?([a-z]+2?)\}")
_TABLES: Final = (
    ("name", "city"), ("name", "food"), ("name", "job"), ("object", "number"), ("word", "word"),
    ("word", "number"), ("event", "date"), ("petname", "pet"), ("city", "weather"),
)  # fmt: skip
_FIELDS: Final = (
    "size", "mode", "level", "title", "colour", "width", "count", "price", "kind", "state", "page",
    "name", "city", "pet", "date", "food", "job", "event", "relation", "opinion", "label", "key",
)  # fmt: skip


def _term(fill: Filler, kind: str, key: str = "") -> str:
    """Return a value of the kind, sometimes made up, as it would stand inside a sentence."""
    rng = fill.rng
    if rng.random() < 0.3:
        coined = made_up(rng)
        return capitalised(coined) if kind in {"name", "city", "petname"} else coined
    return fill.value(kind + key)


def _carrier(fill: Filler, term: str) -> str:
    """Return a sentence that mentions the term."""
    template = fill.rng.choice(_CARRIERS)
    text = fill(template.replace("{x}", "\0").replace("{X}", "\1"))
    return text.replace("\0", term).replace("\1", capitalised(term))


def repeat(fill: Filler) -> Exchange:
    """Repeat some words, or one word several times, exactly as they were written."""
    rng = fill.rng
    terms = [_term(fill, rng.choice(_KINDS), str(i)) for i in range(rng.randint(1, 5))]
    text = rng.choice((" ", ", ", " and ", "; ", " / ", "\n")).join(terms)
    if rng.random() < 0.3:
        text = text.upper() if rng.random() < 0.6 else _carrier(fill, terms[0])
    ask = fill("[Repeat|Say|Copy|Write|Please say|Please repeat]")
    return rng.choice(((f"{ask}: {text}", text), (f'{ask} "{text}".', text)))


def repeat_symbols(fill: Filler) -> Exchange:
    """Repeat a piece of punctuation-rich text; its values are random, so it states no facts."""
    rng = fill.rng
    values: dict[str, object] = {}
    for field in rng.sample(_FIELDS, rng.randint(1, 4)):
        kind = rng.choice((*_KINDS, "number", "date", "word"))
        values[field] = rng.choice((_term(fill, kind, "7"), made_up(rng), rng.randint(0, 99)))
    separators = (",", ":") if rng.random() < 0.75 else (", ", ": ")
    text = json.dumps(values, ensure_ascii=False, separators=separators)
    if rng.random() < 0.2:
        text = json.dumps(list(values.values()), ensure_ascii=False, separators=(",", ":"))
    ask = fill("[Repeat|Copy|Write|Say] [this|this line|the text]")
    return f"{ask}: {text}", text


def quote(fill: Filler) -> Exchange:
    """Name the one thing of a kind that the user's sentence mentions, in quotes or bare."""
    rng = fill.rng
    kind = rng.choice(tuple(_LABELS))
    term = _term(fill, kind)
    label = _LABELS[kind]
    said = _carrier(fill, term)
    return rng.choice((
        (f"{said} Which {label} did I mention?", f"You mentioned {term}."),
        (f"{said} Which {label} did I mention?", f'You mentioned "{term}".'),
        (f"{said} Name the {label}.", term),
        (f"{said} What was the {label}? Quote it.", f'"{term}"'),
    ))  # fmt: skip


def quote_parts(fill: Filler) -> Exchange:
    """Copy two or three named parts out of a sentence, in any order and between any marks."""
    rng = fill.rng
    story = rng.choice(_STORIES)
    keys = [key for key in _PART.findall(story) if key.rstrip("2") in _LABELS]
    if rng.random() < 0.3:
        coined = rng.choice(keys)
        fill.values[coined] = made_up(rng)
        if coined.rstrip("2") in {"name", "city", "petname"}:
            fill.values[coined] = capitalised(fill.values[coined])
    said = capitalised(fill(story))
    by_label = {_LABELS[key.rstrip("2")]: key for key in keys}
    chosen = rng.sample(list(by_label.values()), rng.randint(1, min(3, len(by_label))))
    parts = [fill.value(key) for key in chosen]
    wanted = " and the ".join(_LABELS[key.rstrip("2")] for key in chosen)
    quoted = [f'"{part}"' for part in parts]
    ask, answer = rng.choice((
        ("Quote", ",".join(quoted)),
        ("Quote", ", ".join(quoted)),
        ("Copy", ", ".join(parts)),
        ("Put into square brackets:", f"[{','.join(quoted)}]"),
        ("Put into braces:", f"{{{','.join(quoted)}}}"),
        ("Join with colons", ":".join(quoted)),
        ("Write, one per line,", "\n".join(parts)),
    ))  # fmt: skip
    return rng.choice((f"{said} {ask} the {wanted}.", f"{ask} the {wanted}: {said}")), answer


def spell(fill: Filler) -> Exchange:
    """Spell a word letter by letter, join letters to a word, or tell its first or last letter."""
    rng = fill.rng
    term = _term(fill, rng.choice(("name", "city", "petname", "word"))).replace(" ", "")
    apart = rng.choice(("-", " ")).join(term)
    return rng.choice((
        (fill(f"[Spell|Please spell|How do you spell] {term}"), apart),
        (f"Which word is {apart}?", term),
        (f"Put together: {apart}", term),
        (f"What is the first letter of {term}?", f"The first letter is {term[0]}."),
        (f"What is the last letter of {term}?", f"The last letter is {term[-1]}."),
    ))  # fmt: skip


def frame(fill: Filler) -> Exchange:
    """Put a word between marks, or write it in capitals or without them."""
    rng = fill.rng
    term = _term(fill, rng.choice(_KINDS))
    which = rng.randrange(len(_FRAMES) + 2)
    if which == len(_FRAMES):
        return fill(f"[Write {term} in capitals|Shout {term}|Say {term} loudly]."), term.upper()
    if which > len(_FRAMES):
        return f"Write {term.upper()} in small letters.", term.lower()
    left, right = _FRAMES[which]
    put = fill("[Put|Write]")
    if rng.random() < 0.3:
        return f"What is in the {_FRAME_NAMES[which]}? {_carrier(fill, left + term + right)}", term
    return f"{put} {term} in {_FRAME_NAMES[which]}.", f"{left}{term}{right}"


def listing(fill: Filler) -> Exchange:
    """List, count, order or pick among the things that the user named."""
    rng = fill.rng
    kind = rng.choice(("name", "city", "food", "object", "hobby", "colour", "pet", "language"))
    terms = list(dict.fromkeys(_term(fill, kind, str(i)) for i in range(rng.randint(2, 5))))
    said = ", ".join(terms[:-1]) + f" and {terms[-1]}" if len(terms) > 1 else terms[0]
    opening = fill(f"[I know|I saw|Here are|There are|We talked about|My list is] {said}.")
    ordinal = rng.randrange(min(len(terms), 3))
    word = ("first", "second", "third")[ordinal]
    numbered = "\n".join(f"{i}. {term}" for i, term in enumerate(terms, 1))
    return rng.choice((
        (f"{opening} Make a list.", "\n".join(f"- {term}" for term in terms)),
        (f"{opening} Number them.", numbered),
        (f"{opening} One per line, please.", "\n".join(terms)),
        (f"{opening} How many are there?", f"There are {len(terms)}."),
        (f"{opening} Which is the {word}?", terms[ordinal]),
        (f"{opening} Which is the last?", terms[-1]),
        (f"{opening} Turn the order around.", ", ".join(reversed(terms))),
        (f"{opening} Separate them with commas.", ",".join(terms)),
        (f"{opening} Quote each.", ",".join(f'"{term}"' for term in terms)),
    ))  # fmt: skip


def lookup(fill: Filler) -> Exchange:
    """Look a value up in a small table that the user wrote."""
    rng = fill.rng
    left, right = rng.choice(_TABLES)
    rows = {fill.value(f"{left}{2 * i}"): fill.value(f"{right}{2 * i + 1}") for i in range(4)}
    rows = dict(list(rows.items())[: rng.randint(2, 4)])
    between, after = rng.choice(((": ", "\n"), (" = ", "; "), (" - ", "\n"), (" is ", ", ")))
    table = after.join(f"{key}{between}{value}" for key, value in rows.items())
    key, value = rng.choice(list(rows.items()))
    return rng.choice((
        (f"{table}\nWhat about {key}?", value),
        (f"{table}\nWhat belongs to {key}?", f"{capitalised(value)} belongs to {key}."),
        (f"{table}\nWhat belongs to {value}?", key),
        (f"{table}\n{key}?", f"{key}{between}{value}"),
    ))  # fmt: skip


def kinds(fill: Filler) -> Exchange:
    """Say what kind of thing a word is, or which of two words is of a kind."""
    rng = fill.rng
    one, other = rng.sample(tuple(label for label in _LABELS if label in SLOTS), 2)
    term, distractor = rng.choice(SLOTS[one]), rng.choice(SLOTS[other])
    pair = [term, distractor]
    rng.shuffle(pair)
    return rng.choice((
        (f"What kind of word is {term}?", f"The kind of {term} is: {_LABELS[one]}."),
        (f"{pair[0]} or {pair[1]}: which is a kind of {_LABELS[one]}?", term),
        (f"Name a kind of {_LABELS[one]}.", term),
    ))  # fmt: skip


def rewrite(fill: Filler) -> Exchange:
    """Say the user's sentence in the second person, more politely or in other words."""
    said, answer = fill.rng.choice((
        ("I like {food} and {food2}.", "You are fond of {food} and {food2}."),
        ("I went to {city} with {name}.", "You visited {city} together with {name}."),
        ("My {relation} {name} bought {a:object}.", "{name}, your {relation}, bought {a:object}."),
        ("My {relation} {name} works in {city}.", "{name}, your {relation}, has a job in {city}."),
        ("{name} gave {name2} {a:object}.", "{name2} got {a:object} from {name}."),
        ("Bring me the {object}.", "Could you please bring me the {object}?"),
        ("Call {name} on {weekday}.", "Could you please call {name} on {weekday}?"),
        ("The {event} starts at {clock}.", "At {clock} the {event} begins."),
        ("I am {a:job} from {city}.", "You come from {city} and work as {a:job}."),
        ("I have {a:pet} called {petname}.", "Your {pet} has the name {petname}."),
        ("On {date} we have {a:event}.", "We have {a:event} on {date}."),
        ("{name} is too {feeling} for {hobby}.", "{name} feels {feeling}, so no {hobby} today."),
    ))  # fmt: skip
    ask = fill("[Say it in other words|Rephrase|Put this differently|Say that another way]")
    return f"{ask}: {fill(said)}", fill(answer)


EXERCISES: Final[tuple[tuple[Callable[[Filler], Exchange], int], ...]] = (
    (repeat, 3), (repeat_symbols, 3), (quote, 4), (quote_parts, 14),
    (spell, 1), (frame, 3), (listing, 3),
    (lookup, 3), (kinds, 1), (rewrite, 2),
)  # fmt: skip
"""Every exercise with its weight."""


def exercise(fill: Filler, rng: random.Random) -> Exchange:
    """Return one exercise, drawn by weight."""
    makers = [maker for maker, _ in EXERCISES]
    return rng.choices(makers, weights=[weight for _, weight in EXERCISES])[0](fill)
