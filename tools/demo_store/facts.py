"""What the dialogues talk about: facts with several wordings, and the questions they answer."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Question:
    """One question about a fact, the full answer and the bare value."""

    ask: str
    answer: str
    value: str


@dataclass(frozen=True)
class Fact:
    """One kind of fact; every text is a template of `grammar.Filler`."""

    statements: tuple[str, ...]
    """Wordings that say the fact about `{name}` or about a thing."""
    questions: tuple[Question, ...]
    own: tuple[str, ...] = ()
    """Wordings in which the speaker says it about themselves."""
    own_questions: tuple[Question, ...] = ()


_WHERE: Final = "[Where does {name} live?|In which city does {name} live?|Where is {name}'s home?]"
_WORK: Final = "[What does {name} do?|What is {name}'s job?|What does {name} work as?]"

FACTS: Final[tuple[Fact, ...]] = (
    Fact(
        (
            "{name} lives in {city}.",
            "{name} has a [small|big|new|quiet] flat in {city}.",
            "{name} [moved|has just moved] to {city}[| in {month}| last year].",
            "{name}'s home is in {city}.",
            "[These days|At the moment|Now] {name} is living in {city}.",
        ),
        (
            Question(_WHERE, "{name} lives in {city}.", "{city}"),
            Question("Who lives in {city}?", "{name} lives in {city}.", "{name}"),
        ),
        (
            "I live in {city}.",
            "[My home is|My flat is|My house is] in {city}.",
            "I [moved|have just moved] to {city}[| in {month}| last year].",
            "{city} is where I live.",
        ),
        (Question("[Where do I live?|Which city do I live in?]", "You live in {city}.", "{city}"),),
    ),
    Fact(
        (
            "{name} works as {a:job}.",
            "{name} is {a:job}.",
            "{name} [became|was trained as|found a job as] {a:job}[| last year| in {month}].",
            "{name} earns a living as {a:job}.",
        ),
        (
            Question(_WORK, "{name} is {a:job}.", "{job}"),
            Question("Who is {a:job}?", "{name} is {a:job}.", "{name}"),
        ),
        ("I work as {a:job}.", "I am {a:job}.", "My job is being {a:job}.", "I became {a:job}."),
        (Question("[What is my job?|What do I do?]", "You are {a:job}.", "{job}"),),
    ),
    Fact(
        (
            "{name} has {a:pet} [called|named] {petname}.",
            "{name}'s {pet} is [called|named] {petname}.",
            "{name} [takes care of|looks after] {a:pet} [called|named] {petname}.",
        ),
        (
            Question("What is {name}'s {pet} called?", "It is called {petname}.", "{petname}"),
            Question("[What|Which] pet does {name} have?", "{name} has {a:pet}.", "{pet}"),
            Question("Who is {petname}?", "{petname} is {name}'s {pet}.", "{name}'s {pet}"),
        ),
        (
            "I have {a:pet} [called|named] {petname}.",
            "My {pet} is [called|named] {petname}.",
            "{petname} is my {pet}.",
            "We [got|have|found] {a:pet} and [called|named] it {petname}.",
        ),
        (
            Question("What is my {pet} called?", "Your {pet} is called {petname}.", "{petname}"),
            Question("[Which|What] pet do I have?", "You have {a:pet}.", "{pet}"),
            Question("Who is {petname}?", "{petname} is your {pet}.", "your {pet}"),
        ),
    ),
    Fact(
        (
            "{name} [likes|loves|enjoys|is fond of] {food}.",
            "{name} [eats|buys|cooks|orders] {food} [every day|every {weekday}|very often].",
            "For {name}, nothing is better than {food}.",
        ),
        (
            Question("What does {name} like?", "{name} likes {food}.", "{food}"),
            Question("Who likes {food}?", "{name} likes {food}.", "{name}"),
        ),
        (
            "I [like|love|enjoy|adore] {food}.",
            "[My favourite food is|I am fond of|I always order] {food}.",
        ),
        (Question("What [food |]do I like?", "You like {food}.", "{food}"),),
    ),
    Fact(
        (
            "{name} [hates|dislikes|does not like|cannot stand] {food}.",
            "{name} never eats {food}.",
        ),
        (Question("What does {name} not like?", "{name} does not like {food}.", "{food}"),),
        ("I [hate|dislike|do not like|cannot stand|never eat] {food}.",),
        (Question("What do I not like?", "You do not like {food}.", "{food}"),),
    ),
    Fact(
        (
            "{name} spends [the weekend|every {weekday}|the evenings] {hobby}.",
            "{name}'s hobby is {hobby}.",
            "{name} [took up|has taken up|started] {hobby}[| in {month}].",
        ),
        (
            Question("What is {name}'s hobby?", "{name}'s hobby is {hobby}.", "{hobby}"),
            Question("Who [likes|is fond of] {hobby}?", "{name} likes {hobby}.", "{name}"),
        ),
        (
            "My hobby is {hobby}.",
            "I [started|took up|love|am into] {hobby}.",
            "I am keen on {hobby}.",
        ),
        (Question("What is my hobby?", "Your hobby is {hobby}.", "{hobby}"),),
    ),
    Fact(
        (
            "{name}'s {relation} is called {name2}.",
            "{name2} is {name}'s {relation}.",
            "{name} [has|visited|met|phoned] a {relation} called {name2}.",
        ),
        (
            Question("Who is {name2}?", "{name2} is {name}'s {relation}.", "{name}'s {relation}"),
            Question("What is {name}'s {relation} called?", "{name2}.", "{name2}"),
        ),
        (
            "My {relation} is called {name2}.",
            "My {relation} {name2} lives in {city}.",
            "{name2} is my {relation}.",
            "My {relation} {name2} is {a:job}.",
        ),
        (
            Question("Who is {name2}?", "{name2} is your {relation}.", "your {relation}"),
            Question("What is my {relation} called?", "Your {relation} is {name2}.", "{name2}"),
        ),
    ),
    Fact(
        (
            "The {event} is on {date}.",
            "{name} [planned|booked|moved] the {event} for {date}.",
            "The {event} [takes place|starts|will be] on {date}[| in {city}| at the {place}].",
            "On {date} there is {a:event}.",
        ),
        (
            Question("When is the {event}?", "The {event} is on {date}.", "{date}"),
            Question("What happens on {date}?", "The {event} is on {date}.", "the {event}"),
        ),
        ("My {event} is on {date}.", "I have {a:event} on {date}.", "On {date} I have {a:event}."),
        (Question("When is my {event}?", "Your {event} is on {date}.", "{date}"),),
    ),
    Fact(
        (
            "{name} is {age} years old.",
            "{name} [turned|turns|will be] {age} in {month}.",
        ),
        (Question("How old is {name}?", "{name} is {age}.", "{age}"),),
        ("I am {age} years old.", "I turned {age} in {month}."),
        (Question("How old am I?", "You are {age}.", "{age}"),),
    ),
    Fact(
        (
            "{name} bought {a:object} for {number} coins.",
            "The {object} costs {number} coins.",
            "{name} paid {number} coins for {a:object}.",
        ),
        (
            Question("How much is the {object}?", "The {object} costs {number} coins.", "{number}"),
            Question("What costs {number} coins?", "The {object} does.", "the {object}"),
        ),
        ("I bought {a:object} for {number} coins.", "I paid {number} coins for the {object}."),
        (
            Question("What did I buy?", "You bought {a:object}.", "{a:object}"),
            Question("How much did I pay?", "You paid {number} coins.", "{number}"),
        ),
    ),
    Fact(
        (
            "The {object} is {colour}.",
            "{name} has {a:colour} {object}.",
            "There is {a:colour} {object} [at|in|near|behind] the {place}.",
        ),
        (
            Question("What colour is the {object}?", "The {object} is {colour}.", "{colour}"),
            Question("What is {colour}?", "The {object} is {colour}.", "the {object}"),
        ),
        ("My {object} is {colour}.", "I have {a:colour} {object}."),
        (Question("What colour is my {object}?", "Your {object} is {colour}.", "{colour}"),),
    ),
    Fact(
        (
            "{name} speaks {language} [with|to] {name2}.",
            "{name} [is learning|studies|speaks|grew up with] {language}.",
        ),
        (Question("Which language does {name} speak?", "{name} speaks {language}.", "{language}"),),
        ("I [speak|am learning|study|grew up with] {language}.",),
        (Question("Which language do I speak?", "You speak {language}.", "{language}"),),
    ),
    Fact(
        (
            "{name} left the {object} [at|in|near|behind] the {place}.",
            "The {object} is [at|in|near|behind] the {place}.",
        ),
        (Question("Where is the {object}?", "The {object} is at the {place}.", "the {place}"),),
        ("I left my {object} at the {place}.", "My {object} is at the {place}."),
        (Question("Where is my {object}?", "Your {object} is at the {place}.", "the {place}"),),
    ),
    Fact(
        (
            "{name} [flies|travels|goes|takes the train] to {city} on {weekday}.",
            "On {weekday}, {name} [leaves for|drives to|visits] {city}.",
        ),
        (
            Question("When does {name} travel?", "{name} travels on {weekday}.", "{weekday}"),
            Question("Where does {name} go?", "{name} goes to {city}.", "{city}"),
        ),
        ("I [fly|travel|go|drive] to {city} on {weekday}.", "On {weekday} I leave for {city}."),
        (
            Question("When do I travel?", "You travel on {weekday}.", "{weekday}"),
            Question("Where am I going?", "You are going to {city}.", "{city}"),
        ),
    ),
)
