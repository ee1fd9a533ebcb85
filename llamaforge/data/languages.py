"""Which language a text is in, roughly: by its script, then by a vote of everyday words.

Nothing is downloaded. Short texts, code and mixed texts are `unknown`; related languages that
share their everyday words may be taken for each other.
"""

import re
from collections import Counter
from typing import Final

UNKNOWN: Final = "unknown"
_LOOKED_AT: Final = 600
"""Characters from the beginning that the vote is held on."""
_FEWEST_VOTES, _FEWEST_PART = 2, 0.08
"""Everyday words that a language needs, and their part of all words: code has few."""

_WORDS: Final = {
    "en": "the of and to in is that it for was on are with as be this have from or by you not what"
    " how your can which an will would at",
    "de": "der die und das den von zu mit sich des auf ist im dem nicht ein eine als auch es wie"
    " ich wir werden aus er hat dass sie nach wird bei einer um sind was kann",
    "fr": "le la les et des en un une est que dans qui pour pas sur au avec ce il sont par plus"
    " vous nous du je aux cette mais ou être",
    "es": "el la los las de que y en un una es por con para no se del al lo como más su está son"
    " pero muy qué cómo",
    "it": "il di che è la e un una per non sono con del della dei in si da lo gli le anche come"
    " più nel alla questo ma cosa",
    "pt": "o de que e do da em um uma para é com não os no se na por mais as dos como mas ao ele"
    " das seu sua você são está também",
    "nl": "de het een en van ik te dat die is niet op je zijn met voor aan hij er maar om dan zou"
    " wat ook als bij heeft naar deze worden",
    "pl": "i w nie na się z do to że jest jak o po co tak za od przez ale dla są czy być oraz może"
    " który jego",
    "sv": "och i att det som en på är av för med till den har de inte om ett han men var jag sig"
    " från vi så kan när",
    "tr": "ve bir bu da de için ile olarak çok daha en gibi olan ne var ben kadar sonra değil mi"
    " her ama o",
    "cs": "a se na je v že to s z do jsem by si jako ale pro od po jsou který nebo byl tak také"
    " při není",
    "id": "yang dan di dengan untuk tidak ini dari dalam akan pada itu adalah ke saya juga atau"
    " bisa anda ada sebagai oleh",
    "vi": "là của và có không được cho trong một người với các những này để đã như khi từ thì bạn"
    " tôi",
    "ro": "și de la în a cu pe un o nu este care din pentru mai sunt că se ce al sau au fost prin",
}
_CYRILLIC_WORDS: Final = {
    "ru": "и в не на что с как это по но из для он мы вы все так или есть был быть от",
    "uk": "і в не на що з як це по але із для він ми ви всі так або є був бути від та до",
}
_VOTES: Final[dict[str, list[str]]] = {}
for _language, _listed in (*_WORDS.items(), *_CYRILLIC_WORDS.items()):
    for _word in set(_listed.split()):
        _VOTES.setdefault(_word, []).append(_language)

_WORD: Final = re.compile(r"[^\W\d_]+")
_ASCII_GAPS: Final = {code: " " for code in range(128) if not chr(code).isalpha()}
_SCRIPTS: Final = tuple(
    (language, re.compile(f"[{characters}]"))
    for language, characters in (
        ("ja", "\u3040-\u30ff"),
        ("ko", "\uac00-\ud7af\u1100-\u11ff"),
        ("zh", "\u3400-\u4dbf\u4e00-\u9fff"),
        ("cyrillic", "\u0400-\u04ff"),
        ("ar", "\u0600-\u06ff\u0750-\u077f"),
        ("he", "\u0590-\u05ff"),
        ("hi", "\u0900-\u097f"),
        ("bn", "\u0980-\u09ff"),
        ("ta", "\u0b80-\u0bff"),
        ("th", "\u0e00-\u0e7f"),
        ("el", "\u0370-\u03ff"),
    )
)
_PERSIAN: Final = re.compile("[پچژگکی]")
_SCRIPT_PART: Final = 0.3
"""Part of the letters in a script from which the text is in it: code and names may be Latin."""


def language_of(text: str) -> str:
    """Return a language code such as `en`, or `unknown`."""
    text = text[:_LOOKED_AT]
    if not text.isascii():
        by_script = _by_script(text)
        if by_script is not None:
            return by_script
    return _by_vote(text)


def _by_script(text: str) -> str | None:
    """Return the language of a script that few languages share; None for Latin letters."""
    letters = sum(map(str.isalpha, text))
    found = {language: len(script.findall(text)) for language, script in _SCRIPTS}
    # Japanese is written in Han too; a twentieth of kana among them settles it.
    if found["ja"] * 20 >= found["zh"]:
        found["ja"] += found.pop("zh") if found["ja"] else 0
    language, count = max(found.items(), key=lambda item: item[1])
    if not count or count < _SCRIPT_PART * letters:
        return None
    if language == "cyrillic":
        voted = _by_vote(text)
        return voted if voted in _CYRILLIC_WORDS else ("uk" if re.search("[іїєґ]", text) else "ru")
    if language == "ar" and len(_PERSIAN.findall(text)) * 10 > count:
        return "fa"
    return language


def _by_vote(text: str) -> str:
    lower = text.lower()
    ascii_only = lower.isascii()  # the same, three times faster
    words = Counter(lower.translate(_ASCII_GAPS).split() if ascii_only else _WORD.findall(lower))
    votes: Counter[str] = Counter()
    for word in words.keys() & _VOTES.keys():
        for language in _VOTES[word]:
            votes[language] += words[word]
    if not votes:
        return UNKNOWN
    (language, most), *others = votes.most_common(2)
    if most < max(_FEWEST_VOTES, words.total() * _FEWEST_PART) or (others and others[0][1] == most):
        return UNKNOWN
    return language
