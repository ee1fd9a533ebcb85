"""What is wrong with rows is flagged, and what only looks unusual is not."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.flags import (
    MESSAGES,
    FlagReport,
    count_flags,
    ends_in_loop,
    ends_properly,
    has_mojibake,
    is_very_short,
    row_flags,
)
from llamaforge.data.languages import language_of
from llamaforge.data.records import Message, Record, record_id
from llamaforge.data.refusals import is_refusal
from tests.unit.data.row_files import record

SENTENCE = "It is a quiet town by the sea where most people work with wood, and some with stone. "


def pair(chosen: str, rejected: str, row: int = 1) -> Record:
    turns = (Message("user", "Which?"),)
    better, worse = (Message("assistant", chosen),), (Message("assistant", rejected),)
    return Record(record_id(turns), "pairs.jsonl", row, turns, chosen=better, rejected=worse)


def codes(report: FlagReport) -> dict[str, int]:
    return {flag.code: flag.rows for flag in report.flags}


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("What is it?", "A town.", []),
        ("What is it?", " \n", ["empty_answer"]),
        ("  ", "A town.", ["empty_question"]),
        ("What is it?", "what  is it?", ["answer_is_question"]),
        ("What is it?", "I'm sorry, but as an AI language model I cannot say.", ["refusal"]),
        ("What is it?", "A cafÃ© by the sea.", ["mojibake"]),
        ("What is it?", "A town.\x1b[31m", ["control_characters"]),
        ("What is it?", "No", ["short_answer"]),
        ("What is it?", "A town. " + "And again and again. " * 12, ["loop"]),
    ],
)
def test_a_row_is_flagged_for_what_is_wrong_with_it(
    question: str, answer: str, expected: list[str]
) -> None:
    assert row_flags(record(question, answer)) == expected


def test_a_pair_without_a_difference_is_flagged() -> None:
    assert row_flags(pair("Left it is.", "Left  it is. ")) == ["chosen_is_rejected"]
    assert row_flags(pair("Left it is.", "Right it is.")) == []


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't assist with that.",
        "As an AI language model, I do not have feelings.",
        "I cannot help with that request.",
        "Es tut mir leid, aber dabei kann ich dir leider nicht helfen.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "Désolé, en tant qu'intelligence artificielle, je ne peux pas le faire.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Como modelo de linguagem, não tenho opinião.",
        "Mi dispiace, ma non posso aiutarti con questa richiesta.",
        "Als taalmodel heb ik geen mening.",
        "Jako model językowy nie mam opinii.",
        "Извините, но я не могу помочь с этим.",
        "Bir yapay zeka modeli olarak bunu yapamam.",
        "很抱歉，我无法提供这方面的帮助。",
        "申し訳ありませんが、お手伝いできません。",
        "죄송하지만 도와드릴 수 없습니다.",
    ],
)
def test_stock_refusals_are_known_in_many_languages(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I can help with that: first, open the file.",
        "She said: I'm sorry I am late, the train was full.",
        "The firm sells software as an add-on to its machines.",
        "Als Kind war er oft am See.",
        "Unfortunately, the tower fell in 1953.",
        "Como una casa, el barco tenía una cocina.",
        "You can't help with this hand in the cast, so rest.",
        f"{SENTENCE * 3}As an AI language model I cannot say more.",
    ],
)
def test_an_answer_with_such_words_is_no_refusal(answer: str) -> None:
    assert not is_refusal(answer)


@pytest.mark.parametrize(
    "text", ["Ã©tÃ©", "donâ€™t", "naÃ¯ve", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "caf\ufffd", "20Â°C", "ðŸ˜€"]
)
def test_wrong_encodings_are_seen(text: str) -> None:
    assert has_mojibake(text)


@pytest.mark.parametrize(
    "text", ["été", "don’t", "MAÇÃ", "«MAÇÃ»", "Ângela", "привет", "20 °C", "😀", "São", "ÐÐ"]
)
def test_accents_and_other_scripts_are_no_wrong_encoding(text: str) -> None:
    assert not has_mojibake(text)


@given(st.text(alphabet="äöüßéèàçñõêøåžšřąęłőűîâ", min_size=1, max_size=30))
@settings(deadline=None)
def test_accents_read_as_windows_1252_are_seen(text: str) -> None:
    wrong = text.encode().decode("cp1252", "replace")
    assert not has_mojibake(text)
    # Of each language's letters, those of the Latin-1 part become Ã and a mark.
    if any(letter in "äöüßéèàçñõêøåîâ" for letter in text):
        assert has_mojibake(wrong)


@pytest.mark.parametrize(
    ("answer", "short"), [("No", True), ("42", True), ("", False), ("Yes.", False), ("是", False)]
)
def test_short_answers_are_those_that_say_next_to_nothing(answer: str, short: bool) -> None:
    assert is_very_short(answer) is short


@pytest.mark.parametrize(
    "answer",
    [
        "Start. " + "the same thing, " * 20,
        "Start. " + "the same thing, " * 20 + "the sa",
        "a" * 200,
        "I like it. " * 30,
        SENTENCE * 4,
    ],
)
def test_a_loop_at_the_end_is_seen(answer: str) -> None:
    assert ends_in_loop(answer)


@pytest.mark.parametrize(
    "answer",
    [
        SENTENCE * 3,
        "Title\n" + "-" * 200,
        "| a | b |\n" * 3,
        "| 1 | 20 |\n| 2 | 30 |\n| 3 | 41 |\n| 4 | 52 |\n| 5 | 63 |\n" * 2,
        " ".join(map(str, range(100))),
        "ha ha ha ha ha",
        "",
    ],
)
def test_rulers_tables_and_lists_are_no_loops(answer: str) -> None:
    assert not ends_in_loop(answer)


@given(st.text(min_size=1, max_size=60), st.integers(1, 8))
@settings(deadline=None)
def test_any_text_is_looked_at_without_harm(text: str, times: int) -> None:
    answer = text * times
    row_flags(record(text, answer))
    assert ends_properly(answer) in {True, False}


@pytest.mark.parametrize(
    ("answer", "proper"),
    [
        (SENTENCE, True),
        (f"{SENTENCE}He said “no”", True),
        (f"{SENTENCE}```py\nx = 1\n```", True),
        (f"{SENTENCE}\n- one\n- two", True),
        (f"{SENTENCE}\n\nYours\nAnna Keller", True),
        ("这是一个安静的小镇。", True),
        (f"{SENTENCE}And then the", False),
        (f"{SENTENCE}They had bread, cheese,", False),
        (f"{SENTENCE}```py\nx = 1", False),
    ],
)
def test_endings_are_told_from_cuts(answer: str, proper: bool) -> None:
    assert ends_properly(answer) is proper


def test_cut_answers_count_where_most_others_end() -> None:
    whole = [record(f"q{n}", SENTENCE * 2, row=n) for n in range(30)]
    cut = [record(f"c{n}", f"{SENTENCE}And then the", row=100 + n) for n in range(3)]
    report = count_flags(whole + cut)
    flag = next(flag for flag in report.flags if flag.code == "cut_off")
    assert (flag.rows, round(flag.fraction, 3)) == (3, round(3 / 33, 3))
    assert flag.examples[0].text.endswith("And then the")


def test_answers_that_never_end_with_a_mark_are_not_cut() -> None:
    rows = [record(f"q{n}", f"{SENTENCE}And then the", row=n) for n in range(40)]
    assert "cut_off" not in codes(count_flags(rows))


def test_better_answers_that_are_the_longer_ones_are_a_bias() -> None:
    biased = [pair(SENTENCE * 2, SENTENCE, row=n) for n in range(30)]
    report = count_flags(biased)
    assert codes(report)["length_bias"] == 30
    assert (report.chosen_longer, report.length_ratio) == (1.0, 2.0)
    even = [
        pair(SENTENCE, SENTENCE * 2, n) if n % 2 else pair(SENTENCE * 2, SENTENCE, n)
        for n in range(30)
    ]
    assert "length_bias" not in codes(count_flags(even))


def test_few_answers_are_labels_and_their_shares_are_shown() -> None:
    rows = [record(f"text {n}", "spam" if n % 20 == 0 else "ham", row=n) for n in range(200)]
    report = count_flags(rows)
    assert report.labels == {"ham": 190, "spam": 10}
    assert codes(report)["label_imbalance"] == 190
    balanced = [record(f"text {n}", "spam" if n % 2 else "ham", row=n) for n in range(200)]
    assert "label_imbalance" not in codes(count_flags(balanced))


def test_many_different_answers_are_no_labels() -> None:
    rows = [record(f"text {n}", f"Answer {n}", row=n) for n in range(200)]
    assert count_flags(rows).labels == {}


def test_roles_turns_and_systems_are_counted() -> None:
    turns = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello"))
    talk = Record(record_id(turns), "a.jsonl", 1, turns)
    report = count_flags([talk, record("What?", "That."), pair("Left.", "Right.")])
    assert report.roles == {"user": 3, "assistant": 2, "system": 1}
    assert (report.turns, report.system_rows, report.pairs) == ({2: 3}, 1, 1)


def test_examples_are_few_masked_and_safe_to_print() -> None:
    rows = [record("q", f"A\x1b[0m {n} anna.keller@posteo.de", row=n) for n in range(9)]
    flag = count_flags(rows).flags[0]
    assert (flag.code, flag.rows, len(flag.examples)) == ("control_characters", 9, 5)
    assert flag.examples[0].text == "A\\x1b[0m 0 an…de"


def test_every_flag_has_words() -> None:
    rows = [record("q", "", row=1), pair("a", "a")]
    assert all(flag.message == MESSAGES[flag.code] for flag in count_flags(rows).flags)


def test_no_rows_have_no_flags() -> None:
    report = count_flags([])
    assert report.flags == ()
    assert report.to_json()["languages"] == {}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "What is the name of the town that you come from?"),
        ("de", "Wie heißt die Stadt, aus der du kommst, und was ist dort schön?"),
        ("fr", "Quel est le nom de la ville dans laquelle vous habitez ?"),
        ("es", "¿Cómo se llama la ciudad en la que vives y qué es lo mejor?"),
        ("it", "Come si chiama la città in cui vivi e che cosa ti piace di più?"),
        ("pt", "Qual é o nome da cidade em que você mora e o que há para ver?"),
        ("nl", "Wat is de naam van de stad waar je woont en wat is er te zien?"),
        ("pl", "Jak się nazywa miasto, w którym mieszkasz, i co jest w nim ładne?"),
        ("sv", "Vad heter staden som du kommer från och vad är det bästa med den?"),
        ("tr", "Bu şehir çok güzel ve her yıl daha da güzel oluyor."),
        ("id", "Kota ini tidak besar, tetapi orang yang ada di sana baik dan ramah."),
        ("vi", "Tên của thành phố là gì và bạn có thể làm những gì ở đó?"),
        ("ru", "Как называется город, из которого ты приехал?"),
        ("uk", "Як називається місто, з якого ти приїхав, і що там є?"),
        ("zh", "你来自哪个城市？那里有什么好看的？"),
        ("ja", "あなたの出身の町は何という名前ですか。"),
        ("ko", "당신이 온 도시의 이름은 무엇입니까?"),
        ("ar", "ما اسم المدينة التي أتيت منها؟"),
        ("fa", "نام شهری که از آن آمده‌اید چیست و چه چیزی دارد؟"),
        ("he", "מה שם העיר שממנה באת?"),
        ("hi", "आप किस शहर से आए हैं?"),
        ("th", "คุณมาจากเมืองอะไร"),
        ("el", "Πώς λέγεται η πόλη από την οποία ήρθες;"),
        ("unknown", "x = [i ** 2 for i in range(10)]"),
        ("unknown", "42"),
        ("unknown", ""),
    ],
)
def test_languages_are_told_apart(language: str, text: str) -> None:
    assert language_of(text) == language


def test_answers_in_another_language_are_counted() -> None:
    rows = [
        record("What is the name of the town?", "Das ist die Stadt, in der ich wohne."),
        record("What is the name of the town?", "It is the town that I live in."),
    ]
    report = count_flags(rows)
    assert report.languages == {"de": 1, "en": 1}
    assert report.scripts_differ == 1


def test_long_answers_are_looked_at_quickly() -> None:
    chance = random.Random(0)
    noise = "".join(chance.choices("ab ", k=300_000))
    started = time.process_time()
    for answer in ("a" * 300_000, "ab " * 100_000, noise, "I am sorry " * 30_000, "Ã" * 300_000):
        row_flags(record("q", answer))
        ends_properly(answer)
    assert time.process_time() - started < 3.0
