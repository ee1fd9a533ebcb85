"""Stock refusals of chat models, by how they begin, in about a dozen languages."""

import re
from typing import Final

_LOOKED_AT: Final = 160
"""Characters from the beginning; what comes later is part of an answer."""

_APOLOGIES: Final = (
    r"(?:(?:i['’]m|i am) (?:very |so |really |terribly )?(?:sorry|afraid)|sorry|unfortunately"
    r"|i apologi[sz]e|(?:es )?tut mir leid|leider|entschuldigung|désolée?|je suis désolée?"
    r"|lo siento|desculpe|sinto muito|mi dispiace|het spijt me|przykro mi|przepraszam"
    r"|извините|к сожалению|üzgünüm|很?抱歉|对不起|申し訳|죄송)"
)
_FORMS: Final = (
    # English
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"\bi(?: am|['’]m) (?:just |only )?an? (?:ai|(?:large )?language model)\b",
    r"\bi(?: can(?:no|['’])?t| am (?:not able|unable) to|['’]m (?:not able|unable) to"
    r"| won['’]t be able to) (?:assist|help (?:you )?with (?:that|this)|fulfill?|comply"
    r"|provide (?:that|this|assistance)|engage|answer (?:that|this)|do that|continue with)",
    # German
    r"\bals (?:eine? )?(?:ki|künstliche intelligenz|sprachmodell)\b",
    r"\b(?:dabei|damit|hierbei) kann ich (?:dir |ihnen )?(?:leider )?nicht (?:weiter)?helfen",
    r"\bich kann (?:dir |ihnen )?(?:dabei |damit |hierbei )(?:leider )?nicht (?:weiter)?helfen",
    # French
    r"\ben tant qu['’](?:ia\b|intelligence artificielle|assistant ia|une? (?:ia\b|modèle))",
    r"\ben tant que modèle de langage",
    r"\bje ne (?:peux pas vous aider|suis pas en mesure d['’]aider|peux pas répondre à cette)",
    # Spanish and Portuguese
    r"\bcomo (?:una? |uma? )?(?:modelo de l(?:enguaje|inguagem)|ia\b|intelig[eê]ncia artificial)",
    r"\bno puedo (?:ayudar(?:te|le)? con es[oa]|cumplir con)",
    r"\bnão posso (?:ajudar(?: você)? com iss?[ot]|atender)",
    # Italian
    r"\b(?:in quanto|come) (?:ia\b|intelligenza artificiale|modello (?:di )?lingu)",
    r"\bnon posso aiutar(?:ti|la) con",
    # Dutch
    r"\bals (?:een )?(?:ai|taalmodel)\b",
    r"\bik kan (?:u |je )?(?:daar|hier) (?:helaas )?niet (?:bij|mee) helpen",
    # Polish
    r"\bjako (?:model językowy|sztuczna inteligencja)",
    r"\bnie mogę (?:ci )?w tym pomóc",
    # Russian
    r"\bкак (?:языковая модель|искусственный интеллект|ии\b)",
    r"\bне могу (?:вам )?(?:с этим )?помочь",
    # Turkish
    r"\bbir yapay zek[aâ] (?:dil )?model",
    r"\bbu konuda yardımcı olamam",
    # Chinese, Japanese, Korean
    r"作为(?:一个|一名)?(?:人工智能|ai|大?型?语言模型)",
    r"我(?:无法|不能)(?:提供|协助|帮助|回答)",
    r"(?:ai|人工知能|言語モデル)として",
    r"お(?:手伝い|答え)(?:することは)?できません",
    r"(?:ai|인공지능|언어 모델)(?:로서|으로서)",
    r"도와드릴 수 없습니다",
)
_REFUSAL: Final = re.compile(
    rf"\W{{0,5}}(?:{_APOLOGIES}.{{0,60}}?|.{{0,10}}?)(?:{'|'.join(_FORMS)})", re.IGNORECASE
)


def is_refusal(answer: str) -> bool:
    """Return whether `answer` begins with a stock refusal, after an apology or at once."""
    return _REFUSAL.match(answer[:_LOOKED_AT]) is not None
