"""Templates of the first task: how worth remembering is what somebody said?

DISCARD is for thanks, small talk and passing remarks, STORE for tastes and opinions, IMPORTANT for
identity, relationships and facts of life. `{kin}` and `{kinname}` are a relative and a name that
fits. No sentence stands without a slot, since none may occur twice in the data.
"""

from collections.abc import Mapping
from typing import Final

SYSTEM: Final = (
    "Grade this for long-term memory.",
    "How much is this worth remembering? Give the grade.",
    "You grade messages for long-term memory.",
    "Grade the last message for memory.",
)

TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "DISCARD": (
        "[Thanks|Thank you|Many thanks], {name}, see you [on {weekday}|at the {event}].",
        "[Ok|Okay|All right|Fine], {name}, [that works for me|sounds good|will do|got it].",
        "It is {weather} in {city} [today|again|this morning].",
        "The [bus|train] to {city} is [late|full|on time] [today|again].",
        "[Haha|Ha|Well], that was a good one, {name}!",
        "One moment, {name}, I am [just|still] at the {place}.",
        "[Good morning|Good evening|Hello|Hi], {name}, how is the {weather} weather in {city}?",
        "I am [just|still] waiting for {name} [at|near] the {place}.",
        "[Wait|Hold on], {name}, I cannot find my {object}.",
        "There is a long queue at the {place} in {city} today.",
        "[Sorry|Oh], {name}, I almost fell over the {object}.",
        "Could you pass me the {colour} {object}, {name}?",
        "What time is it in {city} now, {name}?",
        "I think I heard {a:object} fall [in|near] the {place}.",
        "[Sure|Yes|Right], {name}, let us talk again at {clock}.",
        "The {place} is [closed|empty|noisy] at {clock}, it seems.",
        "Have a nice {weekday}, {name}!",
        "I will be back [at {clock}|in {age} minutes], {name}.",
        "Look, there is {a:colour} {object} [near|behind] the {place}.",
        "Hm, {name}, I see what you mean about the {event}.",
    ),
    "STORE": (
        "I [really |]love {food} with {food2}.",
        "I [prefer {drink} to|would rather have {drink} than|choose {drink} over] {drink2}.",
        "I cannot stand {food}, and {food2} is [no better|even worse].",
        "My favourite way to spend {a:weekday} is {hobby}.",
        "I think {city} is [too crowded|at its best|too expensive|lovely] in {month}.",
        "I would rather take the train to {city} than fly.",
        "I find {hobby} [boring|relaxing|exciting|too hard], to be honest.",
        "For me, nothing beats {food} on {a:weekday}.",
        "I like my {object} to be {colour}, not {colour2}.",
        "I enjoy {hobby} more than {hobby2}.",
        "In my opinion, {city} is [nicer|better|more fun] than {city2}.",
        "I am not a fan of {food} for [breakfast|lunch|dinner].",
        "[Please|If you can,] keep my meetings on {a:weekday} after {clock}.",
        "I always choose {colour} when I buy {a:object}.",
        "{C:hobby} on {weekday} is what I like best.",
        "I dislike any {event} that lasts longer than {age} minutes.",
        "Honestly, {language} sounds more beautiful to me than {language2}.",
        "I wish people at {a:event} would serve {food}.",
        "My taste in films is simple, anything set in {city} will do.",
        "I feel best when I drink {drink} at {clock}.",
    ),
    "IMPORTANT": (
        "My name is {name} and I was born in {city}.",
        "I work as {a:job} in {city}.",
        "My {kin} {kinname} lives in {city}.",
        "I am allergic to {food}, [and so is|just like] my {kin}.",
        "I [got married to|am engaged to|married] {name} in {month}.",
        "My {kin} {kinname} [turned|turns|will be] {age} in {month}.",
        "We have {a:pet} called {petname}.",
        "I moved from {city} to {city2} [last year|in {month}].",
        "At home I speak {language} with my {kin}.",
        "My {kin} {kinname} is {a:job}.",
        "My birthday is on {date}, and I will be {age}.",
        "I grew up in {city} with my {kin}.",
        "Our {pet} {petname} died on {date}.",
        "I [lost|gave up|got] my job as {a:job} in {month}.",
        "{kinname} is my {kin}, we share a house in {city}.",
        "I studied in {city} to become {a:job}.",
        "We are expecting a baby in {month}, and {name} may be the name.",
        "I have been living in {city} for {age} years.",
        "My {kin} has been [in hospital|ill|retired] since {date}.",
        "People call me {name}, I am {age} years old.",
    ),
}
"""Label to utterances; a program may split the rows made from these as it likes."""

UNSEEN: Final[Mapping[str, tuple[str, ...]]] = {
    "DISCARD": (
        "No problem, {name}, we can look at the {object} later.",
        "Somebody left {a:colour} {object} on the stairs of the {place}.",
        "Oops, {name}, I spilled {drink} on the {object}.",
        "My train passes {city} in {age} minutes.",
        "Let me check the weather in {city}, {name}.",
    ),
    "STORE": (
        "I am fond of {food}, but I do not care for {food2}.",
        "Nothing relaxes me like {hobby} in {city}.",
        "If I may choose, I take the {colour} {object}.",
        "{C:hobby} is more fun than {hobby2}, if you ask me.",
        "I like {drink} best in {month}.",
    ),
    "IMPORTANT": (
        "I am {name}, born on {date} in {city}.",
        "My {kin} {kinname} and I run a shop in {city} together.",
        "I was trained as {a:job}, and my {kin} is {a:job2}.",
        "{kinname}, my {kin}, has {a:pet} called {petname}.",
        "Since {month} I have been married to {name}.",
    ),
}
"""The same for the rows that are kept for the test: no other row uses these."""

OPENINGS: Final = (
    "How are things in {city}, {name}?",
    "What is new since {date}, {name}?",
    "Tell me something, {name}, while we wait for the {event}.",
    "Hello {name}, did you leave your {object} at the {place}?",
    "So, {name}, what about {weekday} at {clock}?",
)
"""What another person may say before; it has no bearing on the grade."""

UNSEEN_OPENINGS: Final = (
    "Hey {name}, are you still in {city}?",
    "Can we talk before the {event} on {date}, {name}?",
)
