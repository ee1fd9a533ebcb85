"""Stage 1: the blob is what it claims, the rows are frozen, tokens are those of llama.cpp."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.checked import checked
from llamaforge.catalog.store import Store
from llamaforge.data import library
from llamaforge.data.chat import ChatRenderer
from llamaforge.data.check import Collected, StoppedError, Watch, collect
from llamaforge.data.encoding import EncodedRecord, EncodedSplits
from llamaforge.data.records import Message, RowError
from llamaforge.data.row_refs import ref_of
from llamaforge.data.snapshot import read_snapshot, write_snapshot
from llamaforge.data.unlearned import unlearned_example, unlearned_sentence
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.files import write_json
from llamaforge.gguf.served import hidden_parts
from llamaforge.runs import events
from llamaforge.runs.hub_fetch import fetch_dataset
from llamaforge.safe_text import safe_line
from llamaforge.training.checkpoints import newest_checkpoint
from llamaforge.words import plural
from llamaforge.worker.bases import base_stamp, check_base
from llamaforge.worker.job import Conversations, Job
from llamaforge.worker.probes import probe_questions
from llamaforge.worker.sampling import spread
from llamaforge.worker.start import warn_of_known_prompts

_COMPARED_ROWS: Final = 200
_PROGRESS_BYTES: Final = 256 * 1024 * 1024
_DONE: Final = "prepared.json"
_TOO_LONG: Final = re.compile(r",.* more than the")
"""In a row's reason: that it has too many tokens."""
_WORK: Final = {"read": "rows read", "look": "rows looked through"}


def is_prepared(job: Job) -> bool:
    """Return whether this stage was done and nothing changed since."""
    try:
        noted = json.loads((job.run.data / _DONE).read_text(encoding="utf-8"))
        manifest, _ = read_snapshot(job.run.data)
        return bool(noted == _noted(job, manifest.id))
    except (OSError, ValueError, LlamaForgeError):
        return False


def prepare(job: Job) -> None:
    """Check the blob, freeze the rows, and prove that they are cut into the served tokens.

    Raises:
        RefusedError: the rows or the model cannot be trained on.
        InvalidFileError: the blob is not what the store says.
    """
    _check_blobs(job)
    job.check_stop()
    check_base(job)
    job.check_stop()
    collected = _freeze(job)
    manifest, _ = read_snapshot(job.run.data)
    conversations = job.conversations()
    _judge_rows(job, conversations.rows)
    probe_questions(job, job.spec.evaluation.probe_prompts)  # refused now rather than later
    _warn(job, conversations, collected)
    warn_of_known_prompts(job)
    _warn_of_other_template(job, conversations)
    _compare_tokens(job, conversations)
    figures, counts = conversations.rows.figures(), manifest.counts
    # A row that its source's weight repeats is refused as often.
    refused = len({(row.source, row.row) for row in conversations.rows.rejected})
    figures |= {
        "rows": {
            "read": counts.read,
            "accepted": counts.accepted + counts.repaired - refused,
            "rejected": counts.rejected + refused,
            "duplicates": counts.duplicates,
            "repeated": counts.repeated,
        },
        "max_length": job.max_length,
        "template": conversations.renderer.template.source,
        "snapshot": manifest.id,
    }
    job.emit(events.Report(kind="data", figures=figures))
    write_json(job.run.data / _DONE, _noted(job, manifest.id))


def _noted(job: Job, snapshot: str) -> dict[str, Any]:
    """Return what must be as it was when a run is resumed."""
    noted = {"blob": _stamp(job), "snapshot": snapshot}
    stamp = base_stamp(job.spec.model.full)
    return noted | {"base": stamp} if stamp else noted


def _freeze(job: Job) -> Collected | None:
    """Put the rows of the run into its folder: read and divided now, or as they once were."""
    data = job.spec.data
    if data.snapshot is not None:
        job.run.data.mkdir(parents=True, exist_ok=True)
        library.take(library.find(data.snapshot), job.run.data)
        return None
    try:
        collected = collect(
            data.sources,
            max_rejected_fraction=data.max_rejected_fraction,
            division=data.division,
            choices=data.choices,
            allow_secrets=data.allow_secrets,
            fetch=fetch_dataset,
            watch=Watch(
                lambda what, rows: job.progress("prepare", rows, 0, _WORK[what]), job.stop_asked
            ),
        )
    except StoppedError:
        job.check_stop()
        raise
    before, damage = _earlier_rows(job)
    now = write_snapshot(job.run.data, collected.splits, collected.report).id
    if before is not None and damage:
        _compare_rows(job, before, now, damage)
    try:
        library.keep(job.run.data)
    except OSError as error:
        job.warn("not_kept", f"The rows could not be put into the library: {error.strerror}.")
    return collected


def _earlier_rows(job: Job) -> tuple[str | None, str]:
    """Return the id of the rows that training began with, and what is wrong with them by now.

    No id where training has not begun: then any rows will do.
    """
    newest, _ = newest_checkpoint(job.run.checkpoints)
    try:
        noted = json.loads((job.run.data / _DONE).read_text(encoding="utf-8"))["snapshot"]
    except (OSError, ValueError, KeyError, TypeError):
        noted = None
    if newest is None or noted is None:
        return None, ""
    try:
        manifest, _ = read_snapshot(job.run.data)
    except LlamaForgeError as error:
        return str(noted), error.message
    return str(noted), "" if manifest.id == noted else "The run's rows were replaced."


def _compare_rows(job: Job, before: str, now: str, damage: str) -> None:
    """Say that damaged rows were read anew.

    Raises:
        RefusedError: they are others than those that training began with.
    """
    if now != before:
        raise RefusedError(
            f"{damage} What the run's rows were read from gives other rows by now, and training "
            "has begun with those of before.",
            "Bring the files back as they were, then resume; or start a new run.",
            code="rows_changed",
        )
    job.warn("rows_read_again", f"{damage} The rows were read anew, and are the same.")


def _stamp(job: Job) -> dict[str, int]:
    found = [path.stat() for path in job.spec.model.files]
    return {
        "bytes": sum(status.st_size for status in found),
        "mtime_ns": max(status.st_mtime_ns for status in found),
    }


def _check_blobs(job: Job) -> None:
    model = job.spec.model
    _check_blob(job, model.blob, model.digest)
    for part in model.further:
        _check_blob(job, part.blob, part.digest)


def _check_blob(job: Job, blob: Path, expected: str) -> None:
    try:
        size = blob.stat().st_size
    except OSError as error:
        raise RefusedError(
            f"The model's file {blob.name} cannot be read: {error.strerror}.",
            f"Pull the model again: ollama pull {safe_line(job.spec.model.name)}",
            code="missing_blob",
        ) from error
    told = 0

    def on_bytes(done: int) -> None:
        nonlocal told
        if done - told >= _PROGRESS_BYTES:
            told = done
            # Read twice: for the digest, and for values that are no numbers.
            job.progress("prepare", done, 2 * size, "bytes")
            job.check_stop()

    found = checked(blob, expected.removeprefix("sha256:"), on_bytes)
    if f"sha256:{found.digest}" != expected:
        raise InvalidFileError(
            f"The model's file {blob.name} is damaged: its digest is sha256:{found.digest}.",
            f"Pull the model again: ollama pull {safe_line(job.spec.model.name)}",
            code="damaged_blob",
        )
    if found.not_finite:
        raise RefusedError(
            f"The tensor {safe_line(found.not_finite, limit=80)} of {blob.name} holds values that "
            "are no numbers, so nothing can be learned on it.",
            "The file is as it was published; choose another model or another quantisation.",
            code="not_finite",
        )


def _judge_rows(job: Job, rows: EncodedSplits) -> None:
    if rows.rejected:
        total = len(rows.train) + len(rows.held_out) + len(rows.rejected)
        first = rows.rejected[0]
        where = f"{safe_line(first.source)} row {first.row:,}: {first.reason}"
        if len(rows.rejected) / total > job.spec.data.max_rejected_fraction or not rows.train:
            raise RefusedError(
                f"{len(rows.rejected):,} of {plural(total, 'row')} cannot be used with this model; "
                f"the first: {where}.",
                unusable_hint(
                    [row.reason for row in rows.rejected],
                    job.max_length,
                    job.spec.model.context_length,
                ),
                code="rejected_rows",
            )
        job.warn(
            "rejected_rows", f"{plural(len(rows.rejected), 'row')} left out; the first: {where}."
        )
    if rows.unterminated:
        raise RefusedError(
            "The chat template does not end the assistant's turn with a token at which the model "
            "stops, so a model trained with it would never stop.",
            "Give a template that does, for example: --set chat_template=chatml",
            code="untrained_end",
        )


def unusable_hint(reasons: Sequence[str], max_length: int, context: int) -> str:
    """Return what to do about rows that cannot be used.

    Args:
        reasons: why, for each of them.
        max_length: tokens that a row may have now.
        context: tokens that the model was made for; 0 where it is not known.
    """
    allow = "allow them with --set max_rejected_fraction"
    if not any(_TOO_LONG.search(reason) for reason in reasons):
        return f"Mend them, or {allow}."
    found = (re.search(rf"([0-9,]+) tokens{_TOO_LONG.pattern}", reason) for reason in reasons)
    needed = max((int(item[1].replace(",", "")) for item in found if item), default=2 * max_length)
    if context and needed > context:
        if max_length >= context:
            return f"Shorten them: {context:,} tokens are the model's context; or {allow}."
        needed = context
    return f"Shorten them, or raise --set max_length={needed}, or {allow}."


def _warn(job: Job, conversations: Conversations, collected: Collected | None) -> None:
    hidden = hidden_parts(job.header)
    if hidden:
        job.warn(
            "text_only",
            f"What the model's file holds for {' and '.join(hidden)} stays as it is: only what "
            "reads and writes text is trained.",
        )
    source = conversations.renderer.template.source
    if source == "plain":
        job.warn(
            "no_template",
            "The model's file has no chat template, so prompt and answer follow each other "
            "directly. Give one with --set chat_template=chatml if it was trained as a chat model.",
        )
    elif source not in {"file", "given"} and job.spec.model.chat_template is None:
        job.warn(
            "guessed_template",
            f"The model's file has no chat template; its vocabulary is that of {source}, which is "
            "used.",
        )
    for problem in collected.analysis.problems() if collected else []:
        job.warn(problem["code"], problem["message"])
    for sentence in collected.warnings if collected else ():
        job.warn("sources", sentence)
    if collected and collected.split_report.leaked:
        job.warn(
            "leaks",
            f"{plural(collected.split_report.leaked, 'near duplicate')} of rows that are trained "
            "on among the held-out rows, because the rows themselves say their side.",
        )
    for move, count in (collected.split_report.moved if collected else {}).items():
        job.warn(
            "moved_rows",
            f"{plural(count, 'row')} moved ({safe_line(move)}): the prompt stands on both sides.",
        )
    shortened = conversations.rows.figures()["shortened"]
    if shortened:
        job.warn(
            "shortened_rows",
            f"{plural(shortened, 'conversation')} longer than {job.max_length:,} tokens: the "
            "oldest turns are left out.",
        )
    _warn_of_unlearned_words(job, conversations.rows)
    if not conversations.rows.held_out:
        job.warn(
            "nothing_held_out",
            "No row is held out of training, so nothing can be said about new questions.",
        )


def _warn_of_unlearned_words(job: Job, rows: EncodedSplits) -> None:
    """Tell of what the assistant says in rows to train on and the template does not show."""
    found = [(item, told) for item in rows.train if (told := _unlearned(item))]
    if found:
        item, told = found[0]
        beside = sum(any(turn.calls for turn in turns) for _, turns in found)
        example = unlearned_example(ref_of(item.record), told)
        sentence = unlearned_sentence(len(found), beside, len(rows.train), example)
        job.warn("unlearned_words", sentence)


def _unlearned(item: EncodedRecord) -> tuple[Message, ...]:
    return item.row.unlearned + (item.rejected.unlearned if item.rejected else ())


def _warn_of_other_template(job: Job, conversations: Conversations) -> None:
    """Tell where Ollama would put other control tokens around a turn than training does."""
    try:
        served = Store.open(job.spec.model.store).find(job.spec.model.name)
        used = conversations.renderer.opening_tokens(conversations.rows.train[0].messages)
    except (LlamaForgeError, RowError):
        return
    # A renderer of Ollama's own cannot be read; it does what the template in the file does, which
    # also serves a model without a template layer.
    text = None if served.config.get("renderer") else served.template
    text = text or conversations.tokenizer.chat_template
    if not text or text == conversations.renderer.template.text:
        return
    missing = sorted(token for token in used if token not in text)
    if missing:
        job.warn(
            "other_template",
            f"The template that Ollama serves {safe_line(served.name)} with has no "
            f"{safe_line(missing[0])}, which the template for training puts around every turn: "
            "the model may be served other prompts than it is trained on. Compare: llamaforge show "
            f"{safe_line(served.name)}",
        )


def _compare_tokens(job: Job, conversations: Conversations) -> None:
    """Refuse to train where llama.cpp would cut the same conversations into other tokens."""
    from llamaforge.evaluation.llama import loaded, tokenize

    rows = conversations.rows
    compared = spread([*rows.train, *rows.held_out], _COMPARED_ROWS)
    tokenizer = conversations.tokenizer
    bos = tokenizer.text_of(tokenizer.bos_id)
    with (
        job.llama_files(vocabulary_only=True) as files,
        loaded(files, vocabulary_only=True) as model,
    ):
        for item in compared:
            text = _plain_text(conversations.renderer, item)
            if text is None:
                continue
            if tokenizer.add_bos and text.startswith(bos):
                text = text[len(bos) :]  # llama.cpp puts it in front itself
            if tokenize(model, text, parse_special=True) != item.row.ids:
                raise RefusedError(
                    f"{safe_line(item.record.source)} row {item.record.row:,} is cut into other "
                    "tokens here than in llama.cpp, so the model would not be served what it was "
                    "trained on.",
                    "Choose another model, and report this one with its name.",
                    code="tokenizer_mismatch",
                )


def _plain_text(renderer: ChatRenderer, item: EncodedRecord) -> str | None:
    """Return the whole conversation's text; None where its tokens must differ from it.

    That is so where a content spells a control token, and where something was left out.
    """
    messages = item.messages
    if (
        item.row.shortened
        or item.row.is_part
        or any(renderer.spells_special(turn.content) for turn in messages)
    ):
        return None
    try:
        return renderer.render(messages)
    except RowError:
        return None
