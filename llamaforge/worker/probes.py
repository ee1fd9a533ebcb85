"""Answers to a few prompts while training goes on: the model as it was beside what it is now."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from llamaforge.data.records import Message, RowError
from llamaforge.errors import RefusedError
from llamaforge.evaluation.answers import Question
from llamaforge.runs import events
from llamaforge.safe_text import safe_line
from llamaforge.worker.job import Job
from llamaforge.worker.sampling import question_of, spread

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from llamaforge.training.loss import OutputHead

_ROWS_ASKED: Final = 3
"""Validation rows whose questions are answered where a person asks and the recipe names none."""


def probe_questions(job: Job, prompts: Sequence[str]) -> list[Question]:
    """Return `prompts` as the model is asked them.

    Raises:
        RefusedError: the template refuses one, or it leaves no room for an answer.
    """
    renderer = job.conversations().renderer
    found = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            ids = renderer.encode_prompt([Message("user", prompt)])
        except RowError as error:
            raise RefusedError(
                f"Probe prompt {number} cannot be asked: {safe_line(str(error), limit=160)}.",
                "Change it, or leave it out of probe_prompts.",
                code="probe_prompt",
            ) from error
        room = (job.spec.model.context_length or job.max_length) - len(ids)
        if room < 1:
            raise RefusedError(
                f"Probe prompt {number} has {len(ids):,} tokens, which leaves no room for an "
                "answer.",
                "Shorten it, or leave it out of probe_prompts.",
                code="probe_prompt",
            )
        found.append(Question(ids, prompt, ""))
    return found


class Prober:
    """Answers probe prompts with the model that is being trained, and tells them as events."""

    def __init__(
        self, job: Job, model: "PeftModel | PreTrainedModel", head: "OutputHead", dtype: Any
    ) -> None:
        """Take a model that was not trained yet, nor read back from a checkpoint.

        `dtype` is torch's type of what products are computed in.
        """
        self._job = job
        self._model = model
        self._head = head
        self._dtype = dtype
        self._questions = probe_questions(job, job.spec.evaluation.probe_prompts)
        self._base: dict[tuple[int, ...], tuple[str, bool]] = {}
        """What the model answered before training, and whether that was cut: it never changes."""
        self._forgets = not job.spec.training.use_peft
        if self._forgets:  # no adapter can be taken off later
            seconds = job.spec.evaluation.probe_seconds / max(len(self._questions), 1)
            for question in self._questions:
                answer = self._text(question, seconds, with_adapter=False)
                self._base[tuple(question.prompt)] = answer

    def at_eval(self, step: int) -> None:
        """Answer the recipe's prompts."""
        self._answer(step, self._questions)

    def asked(self, step: int, prompts: Sequence[str]) -> None:
        """Answer what a person asks for; without prompts the recipe's, or validation rows."""
        try:
            questions = probe_questions(self._job, prompts) if prompts else self._questions
        except RefusedError as error:
            self._job.warn(error.code, f"{error.message} {error.hint}")
            questions = []
        else:
            questions = questions or self._of_rows()
            if not questions:
                self._job.warn(
                    "no_probe_prompts",
                    "There is nothing to ask: the recipe has no probe_prompts and no row is held "
                    "out.",
                )
        self._answer(step, questions)
        self._job.emit(events.Sampled(step=step, answers=len(questions)))

    def _of_rows(self) -> list[Question]:
        conversations = self._job.conversations()
        rows = spread(conversations.rows.validation, _ROWS_ASKED)
        found = (question_of(conversations, item) for item in rows)
        return [question for question in found if question is not None]

    def _answer(self, step: int, questions: Sequence[Question]) -> None:
        settings = self._job.spec.evaluation
        deadline = time.monotonic() + settings.probe_seconds
        for number, question in enumerate(questions):
            if self._job.stop_asked():
                return
            # What one answer leaves of its time is there for the next ones.
            share = max(deadline - time.monotonic(), 0.0) / (len(questions) - number)
            key = tuple(question.prompt)
            if key not in self._base and self._forgets:
                self._base[key] = ("", False)
                self._job.warn(
                    "no_answer_before",
                    "What the model would have answered before training is not known any more, "
                    "since every weight is trained. Name such prompts in the recipe: "
                    "evaluation.probe_prompts.",
                )
            if key not in self._base:
                share /= 2
                self._base[key] = self._text(question, share, with_adapter=False)
            base, base_cut = self._base[key]
            tuned, tuned_cut = self._text(question, share, with_adapter=True)
            self._job.emit(
                events.Sample(
                    prompt=question.shown,
                    expected=question.expected,
                    base=base,
                    tuned=tuned,
                    step=step,
                    cut=base_cut or tuned_cut,
                )
            )

    def _text(self, question: Question, seconds: float, *, with_adapter: bool) -> tuple[str, bool]:
        from llamaforge.training.generate import answering, greedy_answer

        tokenizer = self._job.conversations().tokenizer
        context = self._job.spec.model.context_length or self._job.max_length
        with answering(self._model, with_adapter=with_adapter):
            answer = greedy_answer(
                self._model,
                self._head,
                question.prompt,
                dtype=self._dtype,
                end_ids=tokenizer.end_ids,
                max_new_tokens=min(
                    self._job.spec.evaluation.probe_max_new_tokens,
                    context - len(question.prompt),
                ),
                seconds=seconds,
            )
        return tokenizer.decode(answer.ids), answer.cut


class NoProbes:
    """Says why nothing is answered while the model is divided among processes."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def at_eval(self, step: int) -> None:
        """Do nothing: a recipe with questions is refused."""

    def asked(self, step: int, prompts: Sequence[str]) -> None:
        """Tell that nobody can answer."""
        del prompts
        self._job.warn(
            "no_samples",
            "No process has the whole model (fsdp), so questions are answered after training only.",
        )
        self._job.emit(events.Sampled(step=step, answers=0))
