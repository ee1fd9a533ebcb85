"""Base and tuned model answering the same held-out prompts, in llama.cpp, word for word."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llamaforge.evaluation.pair import Served


@dataclass(frozen=True, slots=True)
class Question:
    """One held-out row: what is asked and what the row answers."""

    prompt: Sequence[int]
    """Token ids up to where the answer begins."""
    shown: str
    """The prompt as people read it."""
    expected: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with both answers."""

    question: Question
    base: str
    tuned: str

    def to_json(self) -> dict[str, str]:
        """Return it as a sample."""
        return {
            "prompt": self.question.shown,
            "expected": self.question.expected,
            "base": self.base,
            "tuned": self.tuned,
        }


def answer_all(
    server: Served,
    questions: Sequence[Question],
    *,
    decode: Callable[[list[int]], str],
    end_ids: Collection[int],
    max_new_tokens: int,
    on_answer: Callable[[], None],
    stopped: Callable[[], bool],
) -> list[Answered]:
    """Return greedy answers of base and tuned model to every question.

    Args:
        server: the model with the adapter.
        questions: in the order in which they are answered.
        decode: ids to text.
        end_ids: tokens that end an answer.
        max_new_tokens: tokens an answer may have.
        on_answer: called after each answer of either model.
        stopped: whether to give up; the answers so far are returned then.
    """
    answers: list[list[str]] = []
    for with_adapter in (False, True):
        server.use_adapter(with_adapter)
        texts: list[str] = []
        for question in questions:
            if stopped():
                break
            ids = server.generate(
                question.prompt, max_new_tokens=max_new_tokens, end_ids=end_ids, stopped=stopped
            )
            texts.append(decode(ids))
            on_answer()
        answers.append(texts)
    # Where it was stopped the tuned model has fewer answers, or none: only pairs are compared.
    return [
        Answered(question, base, tuned)
        for question, base, tuned in zip(questions, *answers, strict=False)
    ]


def exact_match(answered: Sequence[Answered]) -> dict[str, Any]:
    """Return how many answers are the expected ones, outer white space aside."""

    def figures(texts: Sequence[str]) -> dict[str, float | int]:
        correct = sum(
            text.strip() == item.question.expected.strip()
            for text, item in zip(texts, answered, strict=True)
        )
        return {"exact_match": correct / len(answered), "correct": correct}

    return {
        "rows": len(answered),
        "base": figures([item.base for item in answered]),
        "tuned": figures([item.tuned for item in answered]),
    }
