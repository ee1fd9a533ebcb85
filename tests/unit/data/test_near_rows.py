"""Rows that say the same are found, those that only share a form are not."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data import near
from llamaforge.data.near import DuplicateFinder, connected, find_duplicates
from llamaforge.data.records import Message, Record, record_id
from llamaforge.data.shingles import GRAM, MAX_SHINGLES, Shingler, Signer, Words, units_of
from tests.unit.data.row_files import record

WORDS = [f"{a}{b}" for a in "kltrsvbn" for b in ("ade", "imo", "urn", "elo", "osk", "ant")]


def text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def numbered(rows: Sequence[tuple[str, str]]) -> list[Record]:
    return [record(question, answer, row=n) for n, (question, answer) in enumerate(rows, start=1)]


def jaccard(one: Words, other: Words) -> float:
    return len(np.intersect1d(one, other)) / len(np.union1d(one, other))


def test_signatures_are_those_of_datasketch() -> None:
    shingler = Shingler()
    sets = [shingler.shingles(text(seed, 5 + 40 * seed)) for seed in range(60)]
    ours = Signer().signatures(sets)
    for words, signature in zip(sets, ours, strict=True):
        theirs = MinHash(num_perm=128, hashfunc=int)
        theirs.update_batch(words.tolist())
        assert (theirs.hashvalues == signature).all()


def test_clusters_agree_with_an_index_of_datasketch() -> None:
    chance = random.Random(3)
    texts = []
    for seed in range(60):
        words = text(seed, 120).split()
        texts.append(" ".join(words))
        words[chance.randrange(120)] = "changed"
        texts.append(" ".join(words))
    records = numbered([("", one) for one in texts])
    found = find_duplicates(records)
    index = MinHashLSH(threshold=0.8, num_perm=128, params=(16, 8))
    shingler = Shingler()
    sketches = []
    for number, one in enumerate(texts):
        sketch = MinHash(num_perm=128, hashfunc=int)
        sketch.update_batch(shingler.shingles(one).tolist())
        index.insert(number, sketch)
        sketches.append(sketch)
    for number, sketch in enumerate(sketches):
        theirs = {n for n in index.query(sketch) if sketch.jaccard(sketches[n]) >= 0.8}
        ours = {n for n, label in enumerate(found.clusters) if label == found.clusters[number]}
        assert theirs == ours
    assert found.near == 60


def test_shingles_do_not_see_case_punctuation_and_white_space() -> None:
    shingler = Shingler()
    one = shingler.shingles("The Quick, brown fox: jumps\nover the dog.")
    assert one.tolist() == shingler.shingles("the quick brown  FOX jumps over the dog").tolist()
    assert len(one) == 4


@given(st.text(alphabet=st.characters(max_codepoint=127)))
@settings(deadline=None)
def test_plain_text_is_cut_as_any_other(text: str) -> None:
    assert units_of(text) == units_of(f"{text} é")[:-1]


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=200))
@settings(deadline=None)
def test_plain_text_has_the_shingles_of_any_other(text: str) -> None:
    shingler = Shingler()
    beside = shingler.shingles(f"{text} é")
    alone = shingler.shingles(text)
    assert len(units_of(text)) < GRAM or set(alone.tolist()) <= set(beside.tolist())


def test_shingles_are_the_same_on_every_machine() -> None:
    assert Shingler().shingles("one two three four five").tolist() == [2135871902]


def test_scripts_without_spaces_are_cut_by_character() -> None:
    shingler = Shingler()
    one = shingler.shingles("机器学习是人工智能的一个分支领域")
    other = shingler.shingles("机器学习是人工智能的一个分支领城")
    assert len(one) == 12
    assert 0.8 < jaccard(one, other) < 1.0


@pytest.mark.parametrize(("content", "count"), [("", 0), ("?!", 0), ("Hi", 1), ("a b c d e f", 2)])
def test_short_texts_are_one_shingle(content: str, count: int) -> None:
    assert len(Shingler().shingles(content)) == count


def test_a_text_without_end_is_known_by_its_beginning() -> None:
    shingles = Shingler().shingles(" ".join(map(str, range(100_000))))
    assert len(shingles) <= MAX_SHINGLES


def test_exact_near_and_different_rows_are_told_apart() -> None:
    long = text(1, 100)
    records = numbered(
        [
            ("Tell me of it", long),
            ("Something else", text(2)),
            ("Tell me of it", long),
            ("Tell me of it", f"{long} indeed"),
            ("Something other", text(3)),
        ]
    )
    found = find_duplicates(records)
    assert (found.rows, found.compared, found.exact, found.near) == (5, 5, 1, 1)
    assert found.clusters == (0, 1, 0, 0, 4)
    assert found.cluster_count == 1
    assert [example.ref.row for example in found.largest[0].examples] == [1, 3, 4]
    assert found.largest[0].rows == 3


def test_half_of_a_text_is_no_near_duplicate() -> None:
    found = find_duplicates(numbered([("q", text(1, 100)), ("q", text(1, 50) + text(2, 50))]))
    assert (found.exact, found.near) == (0, 0)


@given(seed=st.integers(0, 1_000), changed=st.integers(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_changed_word_of_two_hundred_is_found_wherever_it_stands(seed: int, changed: int) -> None:
    words = text(seed, 200).split()
    other = list(words)
    other[random.Random(seed).randrange(200)] = "changed" if changed else "other"
    found = find_duplicates(numbered([("q", " ".join(words)), ("q", " ".join(other))]))
    assert found.exact + found.near == 1


def test_a_shared_system_message_makes_no_duplicates() -> None:
    system = Message("system", text(0, 300))
    records = []
    for number in range(20):
        turns = (system, Message("user", text(number + 1, 30)), Message("assistant", "Yes."))
        records.append(Record(record_id(turns), "a.jsonl", number, turns))
    assert find_duplicates(records).near == 0


def test_a_form_that_rows_fill_in_makes_no_duplicates() -> None:
    form = text(0, 200)
    rows = [(f"{form} Text: {text(n, 12)}", "good") for n in range(1, 400)]
    rows.append((f"{form} Text: {text(7, 12)}!", "good"))
    found = find_duplicates(numbered(rows))
    assert (found.exact, found.near) == (0, 1)


def test_rows_beyond_the_limit_are_only_compared_word_for_word() -> None:
    finder = DuplicateFinder(max_rows=2)
    long = text(1, 100)
    for item in numbered([("q", long), ("r", text(2)), ("q", f"{long} x"), ("q", long)]):
        finder.add(item)
    found = finder.finish()
    assert (found.rows, found.compared, found.exact, found.near) == (4, 2, 1, 0)
    assert found.clusters == (0, 1, 2, 0)


def test_prompts_with_different_answers_are_conflicts() -> None:
    records = numbered(
        [
            ("How many?", "Two."),
            ("how  MANY?", "Three."),
            ("How many?", "Two. "),
            ("Where?", "Here."),
            ("Where?", "Here."),
            ("When?", "Mail anna.keller@posteo.de."),
            ("When?", "Now."),
        ]
    )
    found = find_duplicates(records)
    assert (found.conflicts, found.conflict_rows) == (2, 5)
    first, second = found.conflict_examples
    assert (first.rows, first.answers) == (3, 2)
    assert [example.ref.row for example in first.examples] == [1, 2]
    assert second.examples[0].text == "When? → Mail an…de."


def test_another_system_message_is_another_prompt() -> None:
    rows = []
    for number, system in enumerate(["Be kind.", "Be rude."]):
        turns = (
            Message("system", system),
            Message("user", "Hi"),
            Message("assistant", system[3:]),
        )
        rows.append(Record(record_id(turns), "a.jsonl", number, turns))
    assert find_duplicates(rows).conflicts == 0


def test_pairs_with_one_prompt_are_neither_duplicates_nor_conflicts() -> None:
    turns = (Message("user", "Hi"),)
    pairs = [
        Record(
            record_id(turns), "a.jsonl", number, turns,
            chosen=(Message("assistant", text(number)),),
            rejected=(Message("assistant", text(number + 10)),),
        )
        for number in range(3)
    ]  # fmt: skip
    found = find_duplicates([*pairs, pairs[0]])
    assert (found.exact, found.near, found.conflicts) == (1, 0, 0)


def test_no_rows_have_no_duplicates() -> None:
    found = find_duplicates([])
    assert (found.rows, found.exact, found.near, found.clusters) == (0, 0, 0, ())
    assert found.to_json()["largest"] == []


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=30),
    shuffle=st.randoms(),
)
@settings(max_examples=30, deadline=None)
def test_order_changes_neither_the_counts_nor_who_belongs_together(
    rows: list[tuple[int, int]], shuffle: random.Random
) -> None:
    records = numbered([(text(q, 8), f"{text(q, 80)} {'x ' * a}") for q, a in rows])
    before = find_duplicates(records)
    order = list(range(len(records)))
    shuffle.shuffle(order)
    after = find_duplicates([records[place] for place in order])
    assert (before.exact, before.near) == (after.exact, after.near)
    for one in range(len(order)):
        for other in range(one):
            together = before.clusters[order[one]] == before.clusters[order[other]]
            assert together == (after.clusters[one] == after.clusters[other])


@given(links=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
@settings(deadline=None)
def test_connected_things_share_the_first_of_them(links: list[tuple[int, int]]) -> None:
    labels = connected(20, np.array(links, np.int64).reshape(-1, 2)).tolist()
    assert all(labels[one] == labels[other] for one, other in links)
    assert all(labels[label] == label <= place for place, label in enumerate(labels))
    apart = {frozenset((labels[one], labels[other])) for one, other in links}
    assert all(len(pair) == 1 for pair in apart)
    untouched = set(range(20)) - {place for link in links for place in link}
    assert all(labels[place] == place for place in untouched)


def test_many_copies_cost_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    agreeing = near._agreeing

    def counted(left: near.Indices, *rest: object) -> near.Indices:
        nonlocal compared
        compared += len(left)
        return agreeing(left, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(near, "_agreeing", counted)
    found = find_duplicates(numbered([("q", f"{text(1, 150)} {n}") for n in range(90)]))
    assert found.near == 89
    assert compared <= 90 * 16 * 2


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_out_of_bounds_is_an_error(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        DuplicateFinder(threshold=threshold)
