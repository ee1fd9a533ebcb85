"""Stage 5: base and tuned model answer the same held-out rows."""

from typing import Any

from llamaforge.runs import events
from llamaforge.worker.artifacts import add_report
from llamaforge.worker.job import Job
from llamaforge.worker.sampling import (
    held_out_labels,
    held_out_pairs,
    held_out_sets,
    pair_ids,
    spread,
)
from llamaforge.worker.verify import serve


def evaluate(job: Job) -> None:
    """Let base and tuned model answer the held-out rows, and compare."""
    from llamaforge.evaluation.answers import answer_all, exact_match
    from llamaforge.evaluation.preferences import (
        AnswerIds,
        answer_scores,
        label_figures,
        preference_figures,
        preferences,
    )

    settings = job.spec.evaluation
    conversations = job.conversations()
    sets = held_out_sets(conversations, settings.max_rows)
    questions = [question for part in sets for question in part.questions]
    pairs = held_out_pairs(conversations, settings.max_rows)
    labelled = held_out_labels(conversations, settings.max_rows)
    if not questions and not pairs and not labelled:
        add_report(job, "evaluation", "evaluation.json", _figures([], []))
        return
    total, done = 2 * len(questions) + 4 * len(pairs) + 2 * len(labelled), 0

    def on_answer() -> None:
        nonlocal done
        done += 1
        job.progress("evaluate", done, total, "answers")
        job.check_stop()

    asked = max((len(question.prompt) for question in questions), default=0)
    longest = max((item.tokens for item in pairs + labelled), default=0)
    answers = asked + settings.max_new_tokens
    context = tokens_served(asked, answers, longest, job.spec.model.context_length)
    with serve(job, context) as server:
        preferred = preferences(
            server, pair_ids(pairs), on_answer=on_answer, check_stop=job.check_stop
        )
        scores = answer_scores(
            server,
            [AnswerIds(item.row.ids, item.row.trained) for item in labelled],
            on_answer=on_answer,
            check_stop=job.check_stop,
        )
        answered = answer_all(
            server,
            questions,
            decode=conversations.tokenizer.decode,
            end_ids=conversations.tokenizer.end_ids,
            max_new_tokens=settings.max_new_tokens,
            on_answer=on_answer,
            stopped=job.stop_asked,
        )
    job.check_stop()
    entries: list[dict[str, Any]] = []
    samples: list[dict[str, str]] = []
    for part in sets:
        own = [answered.pop(0) for _ in part.questions]
        entries.append({"name": part.name} | exact_match(own))
        if not samples:  # evenly taken from the first set, whatever the answers are
            samples = [item.to_json() for item in spread(own, settings.samples)]
    report = _figures(entries, samples)
    if pairs:
        report["preferences"] = preference_figures(preferred, job.spec.training.beta or 1.0)
    if labelled:
        good = [item.label is True for item in labelled]
        report["labels"] = label_figures(scores, good, job.spec.training.beta or 1.0)
        job.note(reward_margin=report["labels"]["rewards"]["margin"])
    for sample in report["samples"]:
        job.emit(events.Sample(**sample))
    job.emit(events.Report(kind="evaluation", figures=report))
    for first in report["sets"][:1]:
        job.note(
            exact_match_base=first["base"]["exact_match"],
            exact_match_tuned=first["tuned"]["exact_match"],
        )
    if pairs:
        job.note(
            preference_accuracy_base=report["preferences"]["base"]["accuracy"],
            preference_accuracy_tuned=report["preferences"]["tuned"]["accuracy"],
        )
    add_report(job, "evaluation", "evaluation.json", report)


def tokens_served(asked: int, answers: int, longest: int, context_length: int) -> int:
    """Return how many tokens llama.cpp has to have room for.

    Args:
        asked: of the longest prompt.
        answers: of the longest prompt with the longest answer that is allowed.
        longest: of the longest row that is only read.
        context_length: of the model: no answer goes beyond it; 0 where it is not known.
    """
    most = min(answers, max(context_length, asked + 1)) if context_length else answers
    return max(most, longest)


def _figures(sets: list[dict[str, Any]], samples: list[dict[str, str]]) -> dict[str, Any]:
    return {"metric": "exact_match", "sets": sets, "samples": samples}
