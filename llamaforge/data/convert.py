"""Rows of any format written in one form, with nothing lost that is not said.

The forms, and the sources of their words: `chat` is OpenAI's fine-tuning format; `sharegpt` that
of ShareGPT as Axolotl and LLaMA-Factory read it; `prompt-completion` and `preference` are TRL's;
`openpipe` is OpenPipe's upload format: chat that ends with an answer, with a `split` of TRAIN or
TEST and, for a pair, a `rejected_message`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from llamaforge.data.containers import require_file
from llamaforge.data.formats import read_records
from llamaforge.data.mapping import Mapping
from llamaforge.data.records import Message, Record, Rejection, RowError, is_raw_text, source_name
from llamaforge.data.row_refs import all_turns
from llamaforge.data.row_writer import RowWriter, require_free
from llamaforge.data.tool_calls import in_openai_form, split_offer
from llamaforge.errors import InvalidFileError, RefusedError, UsageError
from llamaforge.safe_text import safe_line

Form = Literal["chat", "prompt-completion", "preference", "openpipe", "sharegpt"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)

_SHAREGPT_ROLES: Final = {
    "system": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "tool",
}
_WITHOUT_TOOLS: Final[frozenset[Form]] = frozenset({"prompt-completion", "sharegpt"})
_OPENPIPE_SPLITS: Final = {"train": "TRAIN", "test": "TEST"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done with what a form cannot hold; without a rule, the row is refused."""

    fold: bool = False
    """Write it in another way, by these rules: in `prompt-completion`, a system text goes before
    the question, an empty line between them; in every form without pairs, the chosen answer of a
    pair is kept and the rejected one dropped; in `openpipe`, the side `validation` becomes TEST;
    where a form cannot say that an answer is not to be learned (only `chat` can, with a weight of
    0), it is like any other."""
    as_messages: bool = False
    """In `prompt-completion`, write both sides as lists of messages (TRL's conversational form):
    these hold system texts and earlier turns."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of the rows; `read` is always `written + rejected`."""

    read: int
    written: int
    rejected: int
    folded: int
    """Rows among those written that a rule of `Rules.fold` changed."""


@dataclass(slots=True)
class _Folded:
    """Whether a rule was needed for the row in work."""

    allowed: bool
    used: bool = field(default=False)

    def need(self, reason: str) -> None:
        """Note that a rule is needed.

        Raises:
            RowError: none may be used.
        """
        if not self.allowed:
            raise RowError(reason)
        self.used = True


def convert(
    sources: Sequence[Path],
    form: Form,
    out: Path,
    *,
    rules: Rules,
    force: bool,
    mapping: Mapping | None = None,
    on_rejected: Callable[[Rejection], None],
) -> Converted:
    """Write the rows of `sources` to `out` in one form, in their order, one row at a time.

    Args:
        sources: data files of any format that can be read.
        form: how the rows are written.
        out: the file, JSON Lines; packed where the name ends in `.gz`. It is put in place when
            all is written: an interruption leaves what was there.
        rules: what is done with what the form cannot hold.
        force: replace `out`.
        mapping: what the columns of the sources are, instead of what their names say.
        on_rejected: takes every row that is not written, with the reason.

    Raises:
        UsageError: no source is named, or the mapping names a column that none has.
        NotFoundError, RefusedError, InvalidFileError: a source cannot be read; `out` is one of
            the sources (`out_is_source`), is there already (`exists`) or has no folder; or not
            one row can be written (`nothing_to_write`).
        LlamaForgeError: `out` cannot be written.
    """
    _require(sources, out, force=force)
    read = rejected = folded = 0
    first: Rejection | None = None
    with RowWriter(out) as writer:
        for path in sources:
            for item in read_records(path, want="any", mapping=mapping):
                read += 1
                try:
                    if isinstance(item, Rejection):
                        raise RowError(item.reason)
                    fields, was_folded = row_in(form, item, rules)
                    writer.write(fields)
                    folded += was_folded
                except RowError as error:
                    found = Rejection(item.source, item.row, str(error))
                    first = first or found
                    rejected += 1
                    on_rejected(found)
        if not writer.rows:
            raise _nothing(form, first)
        writer.commit()
    return Converted(read, writer.rows, rejected, folded)


def _require(sources: Sequence[Path], out: Path, *, force: bool) -> None:
    if not sources:
        raise UsageError("No data file is named.", "Name one or more to convert.", code="no_data")
    for path in sources:
        require_file(path)
        if out.exists() and out.samefile(path):
            raise InvalidFileError(
                f"{safe_line(source_name(out))} is one of the files to convert.",
                "Name another file with --out.",
                code="out_is_source",
            )
    require_free(out, force=force)


def _nothing(form: Form, first: Rejection | None) -> RefusedError:
    if first is None:
        return RefusedError("There are no rows.", "Name a file with rows.", code="nothing_to_write")
    where = f"{safe_line(first.source)} row {first.row:,}: {first.reason}"
    return RefusedError(
        f"No row can be written as {form}; the first: {where}.",
        "Choose another form with --to, or let --fold change what the form cannot hold.",
        code="nothing_to_write",
    )


def row_in(form: Form, record: Record, rules: Rules) -> tuple[dict[str, Any], bool]:
    """Return `record` as one row of a form, and whether it took a rule of `rules.fold`.

    `split` and `meta` of the record are kept where it has them, in the words of the form.

    Raises:
        RowError: the form cannot hold it.
    """
    folded = _Folded(rules.fold)
    if is_raw_text(record.messages):
        raise RowError("the row is raw text, without a question and an answer")
    tools, messages = split_offer(record.messages)
    record = replace(record, messages=tuple(messages))
    if form in _WITHOUT_TOOLS and (tools or any(turn.calls for turn in all_turns(record))):
        raise RowError(f"the row has tools, which {form} cannot hold (chat and openpipe can)")
    if form == "preference":
        row = _preference(record)
    elif form == "openpipe":
        row = _openpipe(record, folded)
    else:
        messages = _single(record, form, folded)
        if form == "chat":
            row = {"messages": _weighted(messages)}
        elif form == "sharegpt":
            _require_learned(messages, form, folded)
            row = {"conversations": _shared(messages)}
        else:
            row = _prompt_completion(messages, rules, folded)
    if tools:
        row["tools"] = tools
    if record.split is not None:
        row["split"] = _openpipe_split(record.split, folded) if form == "openpipe" else record.split
    if record.meta:
        row["meta"] = record.meta
    return row, folded.used


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {"role": turn.role, "content": turn.content} | in_openai_form(turn) for turn in messages
    ]


def _weighted(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages in the words of OpenAI, where an answer that is not learned has weight 0."""
    return [
        turn | ({} if message.trained else {"weight": 0})
        for turn, message in zip(_turns(messages), messages, strict=True)
    ]


def _require_learned(messages: Sequence[Message], form: Form, folded: _Folded) -> None:
    """Note that answers which are not to be learned will be."""
    if not all(turn.trained for turn in messages):
        folded.need(f"the row has an answer that is not to be learned, which {form} cannot say")


def _shared(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"from": _SHAREGPT_ROLES[turn.role], "value": turn.content} for turn in messages]


def _single(record: Record, form: Form, folded: _Folded) -> tuple[Message, ...]:
    """Return the conversation of a row with one way to go on."""
    if not (record.chosen or record.rejected):
        return record.messages
    folded.need(f"the row is a preference pair, and {form} holds one answer")
    return record.messages + record.chosen


def _preference(record: Record) -> dict[str, Any]:
    if not (record.chosen and record.rejected):
        raise RowError("the row has one answer, and a preference pair needs a better and a worse")
    return {
        "prompt": _turns(record.messages),
        "chosen": _turns(record.chosen),
        "rejected": _turns(record.rejected),
    }


def _openpipe(record: Record, folded: _Folded) -> dict[str, Any]:
    better, worse = record.chosen, record.rejected
    is_pair = len(better) == 1 and len(worse) == 1
    if is_pair and better[0].role == worse[0].role == "assistant":
        return {
            "messages": _turns((*record.messages, *better)),
            "rejected_message": _turns(worse)[0],
        }
    if better or worse:
        folded.need("the answers of the pair are not one message each, as openpipe needs")
    messages = record.messages + better
    if messages[-1].role != "assistant":
        raise RowError("the conversation does not end with an answer, as openpipe needs")
    _require_learned(messages, "openpipe", folded)
    return {"messages": _turns(messages)}


def _openpipe_split(split: str, folded: _Folded) -> str:
    if split not in _OPENPIPE_SPLITS:
        folded.need(f"the row belongs to {split}, and openpipe knows train and test only")
    return _OPENPIPE_SPLITS.get(split, "TEST")


def _prompt_completion(
    messages: tuple[Message, ...], rules: Rules, folded: _Folded
) -> dict[str, Any]:
    if messages[-1].role != "assistant":
        raise RowError("the conversation does not end with an answer")
    # Of this form only the completion is learned, whatever stands in the prompt.
    _require_learned(messages[-1:], "prompt-completion", folded)
    if rules.as_messages:
        return {"prompt": _turns(messages[:-1]), "completion": _turns(messages[-1:])}
    systems = [turn.content for turn in messages if turn.role == "system"]
    asked = [turn.content for turn in messages if turn.role == "user"]
    if len(asked) != 1 or len(messages) != len(systems) + 2 or messages[-2].role != "user":
        raise RowError(
            "the conversation has more than one question and one answer, which two texts cannot"
            " hold (--as-messages can)"
        )
    if systems:
        folded.need(
            "the row has a system text, which two texts cannot hold (--as-messages can, and --fold"
            " puts it before the question)"
        )
    return {"prompt": "\n\n".join([*systems, *asked]), "completion": messages[-1].content}
