"""Templates of the second task: the facts of a sentence as compact JSON.

The keys follow from what the sentence tells, always in the order in which they stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SYSTEM: Final = (
    "Extract the facts as JSON.",
    "Write the facts as compact JSON.",
    "Return the facts of this message as JSON.",
    "Which facts are told? Answer in JSON.",
)


@dataclass(frozen=True)
class Extraction:
    """A sentence and the slots that hold its facts."""

    sentence: str
    facts: Mapping[str, str]
    """JSON key to a template of its value."""


def _person(sentence: str, *keys: str) -> Extraction:
    return Extraction(sentence, {key: f"{{{key}}}" for key in keys})


def _pet(sentence: str) -> Extraction:
    return Extraction(sentence, {"pet": "{pet}", "name": "{petname}"})


def _event(sentence: str, *more: str) -> Extraction:
    return Extraction(sentence, {key: f"{{{key}}}" for key in ("event", "date", *more)})


def _relative(sentence: str, *more: str) -> Extraction:
    facts = {"relation": "{kin}", "name": "{kinname}"}
    return Extraction(sentence, facts | {key: f"{{{key}}}" for key in more})


def _taste(sentence: str, opinion: str, *more: str) -> Extraction:
    facts = {key: f"{{{key}}}" for key in more} | {"food": "{food}", "opinion": opinion}
    return Extraction(sentence, facts)


TEMPLATES: Final[Mapping[str, tuple[Extraction, ...]]] = {
    "person": (
        _person("My name is {name} and I live in {city}.", "name", "city"),
        _person("I am {name}, {a:job} from {city}.", "name", "city", "job"),
        _person("{name} moved to {city} to work as {a:job}.", "name", "city", "job"),
        _person("Call me {name}, I work as {a:job}.", "name", "job"),
        _person("Since {month}, {name} has been {a:job} in {city}.", "name", "city", "job"),
        _person("This is {name}, who lives near {city}.", "name", "city"),
        _person("In {city} everybody knows {name}, the {job}.", "name", "city", "job"),
        _person("Hi, {name} here, writing from {city}.", "name", "city"),
        _person("Our new {job} is {name} from {city}.", "name", "city", "job"),
        _person("{name} earns a living as {a:job}.", "name", "job"),
    ),
    "pet": (
        _pet("We have {a:pet} called {petname}."),
        _pet("My {pet} {petname} sleeps near the {object} all day."),
        _pet("{petname} is the {pet} of my {relation}."),
        _pet("Our {pet} answers to the name {petname}."),
        _pet("I got {a:pet} on {weekday} and named it {petname}."),
        _pet("Every {weekday} I take {petname}, my {pet}, to the {place}."),
        _pet("The {pet} next door is called {petname}."),
        _pet("My {relation} looks after {a:pet} named {petname}."),
    ),
    "event": (
        _event("The {event} is on {date}."),
        _event("On {date} we have {a:event} in {city}.", "city"),
        _event("My {relation} invited me to {a:event} on {date}."),
        _event("Please note {a:event} for {date}."),
        _event("They moved the {event} to {date}."),
        _event("My {event} takes place in {city} on {date}.", "city"),
        _event("Do not forget the {event} in {city} on {date}.", "city"),
        _event("There will be {a:event} on {date} at {clock}."),
    ),
    "relative": (
        _relative("My {kin} {kinname} lives in {city}.", "city"),
        _relative("{kinname} is my {kin} and works in {city}.", "city"),
        _relative("I am visiting my {kin} {kinname} in {city}.", "city"),
        _relative("My {kin} is called {kinname}."),
        _relative("In {city} I stay with {kinname}, my {kin}.", "city"),
        _relative("My {kin} {kinname} just moved to {city}.", "city"),
        _relative("Say hello to {kinname}, my {kin} from {city}.", "city"),
        _relative("Yesterday my {kin} {kinname} bought {a:object}."),
    ),
    "taste": (
        _taste("I could eat {food} every {weekday}.", "likes"),
        _taste("I never touch {food} at {a:event}.", "dislikes"),
        _taste("{name} cannot stand {food}.", "dislikes", "name"),
        _taste("{name} loves {food}.", "likes", "name"),
        _taste("In {city} I always order {food}, it is so good.", "likes"),
        _taste("For {name} there is nothing better than {food}.", "likes", "name"),
        _taste("On {weekday} there is {food}, no thank you.", "dislikes"),
        _taste("{name} leaves {food} on the plate every time.", "dislikes", "name"),
    ),
}
"""Schema to sentences; a program may split the rows made from these as it likes."""

UNSEEN: Final[Mapping[str, tuple[Extraction, ...]]] = {
    "person": (
        _person("People in {city} call me {name}, and I am {a:job}.", "name", "city", "job"),
        _person("I live in {city} and my name is {name}.", "name", "city"),
        _person("{name} found work as {a:job}.", "name", "job"),
    ),
    "pet": (
        _pet("{petname} the {pet} lives with us in {city}."),
        _pet("My {pet} is called {petname} because of its {colour} eyes."),
        _pet("I named my {pet} {petname} in {month}."),
    ),
    "event": (
        _event("On {date} there is {a:event}, so I am busy."),
        _event("We meet in {city} on {date} for the {event}.", "city"),
        _event("I booked {a:event} for {date}."),
    ),
    "relative": (
        _relative("{kinname} from {city} is my {kin}.", "city"),
        _relative("I phoned my {kin} {kinname} in {city} on {weekday}.", "city"),
        _relative("The name of my {kin} is {kinname}."),
    ),
    "taste": (
        _taste("{name} is very fond of {food}.", "likes", "name"),
        _taste("I do not like {food} with {drink} at all.", "dislikes"),
        _taste("Give me {food} on {a:weekday} and I am happy.", "likes"),
    ),
}
"""The same for the rows that are kept for the test: no other row uses these."""
