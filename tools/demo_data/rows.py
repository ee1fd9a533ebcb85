"""Makes the rows of the demo's data, and sees to it that no sentence occurs in two of them."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tools.demo_data import extraction, grading
from tools.demo_data.extraction import Extraction
from tools.demo_store.grammar import Filler
from tools.demo_store.words import NAMES

Row = dict[str, Any]

_GRADES_PER_LABEL: Final = 225
_UNSEEN_GRADES_PER_LABEL: Final = 25
_FACTS_PER_SCHEMA: Final = 135
_UNSEEN_FACTS_PER_SCHEMA: Final = 15
_TRIES: Final = 1000

_SPEAKER: Final = re.compile(r"^\w+: ")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


def sentences(text: str) -> list[str]:
    """Return the sentences of a user message in small letters, without who said them."""
    found: list[str] = []
    for line in text.splitlines():
        found += _SENTENCE_END.split(_SPEAKER.sub("", line).lower())
    return found


def _filler(rng: random.Random) -> Filler:
    """Return a filler in which `{kin}` and `{kinname}` fit each other."""
    fill = Filler(rng)
    relation, name = rng.choice((("kinsman", "man"), ("kinswoman", "woman")))
    fill.values |= {"kin": fill.value(relation), "kinname": fill.value(name)}
    return fill


@dataclass
class Maker:
    """Makes rows one by one and remembers every sentence it has used."""

    rng: random.Random
    used: set[str] = field(default_factory=set)

    def grade(self, label: str, index: int, unseen: bool) -> Row:
        """Return a row that grades what somebody said."""
        templates = (grading.UNSEEN if unseen else grading.TEMPLATES)[label]
        number = index % len(templates)

        def written() -> tuple[str, str]:
            fill = _filler(self.rng)
            said = fill(templates[number])
            speaker, other = self.rng.sample(NAMES, 2)
            form = self.rng.random()
            if form < 0.2:
                openings = grading.UNSEEN_OPENINGS if unseen else grading.OPENINGS
                ask = Filler(self.rng, values={"name": speaker})
                said = f"{other}: {ask(self.rng.choice(openings))}\n{speaker}: {said}"
            elif form < 0.4:
                said = f"{speaker}: {said}"
            return said, label

        return self._row("grade", f"{label.lower()}-{number}", grading.SYSTEM, written, unseen)

    def extract(self, schema: str, index: int, unseen: bool) -> Row:
        """Return a row that writes the facts of a sentence as JSON."""
        templates = (extraction.UNSEEN if unseen else extraction.TEMPLATES)[schema]
        number = index % len(templates)

        def written() -> tuple[str, str]:
            return _filled(templates[number], _filler(self.rng))

        return self._row("extract", f"{schema}-{number}", extraction.SYSTEM, written, unseen)

    def _row(
        self, task: str, template: str, systems: Sequence[str], written: Any, unseen: bool
    ) -> Row:
        for _ in range(_TRIES):
            user, answer = written()
            found = sentences(user)
            if not self.used.intersection(found) and len(set(found)) == len(found):
                break
        else:
            raise ValueError(f"the template {template} of {task} has too few slots")
        self.used.update(found)
        row: Row = {
            "messages": [
                {"role": "system", "content": self.rng.choice(systems)},
                {"role": "user", "content": user},
                {"role": "assistant", "content": answer},
            ]
        }
        if unseen:
            row["split"] = "test"
        row["meta"] = {"task": task, "template": ("unseen-" if unseen else "") + template}
        return row


def _filled(made: Extraction, fill: Filler) -> tuple[str, str]:
    user = fill(made.sentence)
    facts = {key: fill(value) for key, value in made.facts.items()}
    return user, json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def rows(seed: int) -> list[Row]:
    """Return all rows in a shuffled order, the same for one seed everywhere."""
    rng = random.Random(seed)
    maker = Maker(rng)
    made: list[Row] = []
    for unseen, grades, facts in (
        (True, _UNSEEN_GRADES_PER_LABEL, _UNSEEN_FACTS_PER_SCHEMA),
        (False, _GRADES_PER_LABEL, _FACTS_PER_SCHEMA),
    ):
        for label in grading.TEMPLATES:
            made += [maker.grade(label, index, unseen) for index in range(grades)]
        for schema in extraction.TEMPLATES:
            made += [maker.extract(schema, index, unseen) for index in range(facts)]
    rng.shuffle(made)
    return made
