"""`llamaforge data generate PROMPTS… --model NAME --out FILE`: rows that a model answers."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llamaforge.cli.collecting import (
    Narrator,
    add_asking,
    finite,
    note_remote,
    teacher_choice,
    whole,
)
from llamaforge.cli.options import add_json
from llamaforge.cli.output import narrate, print_text
from llamaforge.errors import ExitCode, UsageError
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.collecting.generate import Generated, GenerateRequest


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action to the parser of `data`."""
    parser = actions.add_parser(
        "generate",
        help="let a model answer prompts, or write questions about documents",
        description="Ask a model each prompt of the files and write rows to train on. The work "
        "may be interrupted at any moment: the same command goes on where it was, from the journal "
        "FILE.journal.jsonl.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="PROMPTS",
        help="rows with a prompt, a text file with one a line, or documents",
    )
    add_asking(parser)
    parser.add_argument(
        "--answers",
        type=whole(1, 1000),
        metavar="N",
        help="answers to a prompt (1), or questions about a piece of a document (3)",
    )
    parser.add_argument(
        "--documents",
        action="store_true",
        help="PROMPTS are documents or folders of them: ask for questions with answers about them",
    )
    parser.add_argument(
        "--chunk",
        type=whole(200, 1_000_000),
        default=4_000,
        metavar="N",
        help="characters of a document's piece at most (4000)",
    )
    parser.add_argument(
        "--overlap",
        type=whole(0, 100_000),
        default=400,
        metavar="N",
        help="characters that a piece repeats of the one before (400)",
    )
    parser.add_argument("--temperature", type=finite(0, 10), metavar="X", help="the model's own")
    parser.add_argument("--seed", type=whole(0, 2**31 - 1 - 1000), metavar="N", help="of answer 1")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask, and print what came of it.

    Raises:
        LlamaForgeError: as `generate`; the answers so far are kept.
    """
    from llamaforge.collecting.generate import generate
    from llamaforge.collecting.patience import Retries
    from llamaforge.collecting.teachers import open_teacher

    request = _request(arguments)
    one, many = ("piece", "pieces") if request.documents else ("answer", "answers")
    after = "to ask about" if request.documents else "to ask for"
    with (
        open_teacher(teacher_choice(arguments)) as teacher,
        Narrator(
            f"{one} {after}", f"{many} {after}", request.out, as_json=arguments.json
        ) as narrator,
    ):
        note_remote(arguments)
        try:
            done = generate(
                request,
                teacher,
                narrator.watch(),
                retries=Retries(attempts=arguments.retries + 1),
            )
        except KeyboardInterrupt:
            return narrator.interrupted()
        narrator.finished(asdict(done))
    if not arguments.json:
        _tell(request, done)
    return ExitCode.DONE


def _request(arguments: argparse.Namespace) -> "GenerateRequest":
    from llamaforge.collecting.documents import Cut
    from llamaforge.collecting.generate import GenerateRequest

    answers: int = arguments.answers or (3 if arguments.documents else 1)
    if answers > 1 and arguments.temperature == 0 and not arguments.documents:
        raise UsageError(
            "At --temperature 0 all answers to a prompt are the same.",
            "Raise it, or ask for one answer.",
        )
    if arguments.overlap >= arguments.chunk:
        raise UsageError(
            "A piece cannot repeat all of the one before.", "Give --overlap less than --chunk."
        )
    return GenerateRequest(
        sources=tuple(path.expanduser() for path in arguments.sources),
        out=arguments.out.expanduser().absolute(),
        system=arguments.system,
        column=arguments.column,
        answers=answers,
        documents=arguments.documents,
        cut=Cut(arguments.chunk, arguments.overlap),
        temperature=arguments.temperature,
        seed=arguments.seed,
        max_tokens=arguments.max_tokens,
        context_tokens=arguments.context,
        concurrency=arguments.concurrency,
        per_minute=arguments.rate,
        force=arguments.force,
    )


def _tell(request: "GenerateRequest", done: "Generated") -> None:
    if done.rejected:
        narrate(f"{plural(done.rejected, 'row holds', 'rows hold')} no prompt.")
    if done.repeated:
        narrate(f"{plural(done.repeated, 'prompt')} stood there before; asked once.")
    if done.cut:
        narrate(
            f"{plural(done.cut, 'answer')} reached {request.max_tokens:,} tokens and"
            " are left out; a higher --max-tokens asks for them again."
        )
    if done.same:
        narrate(f"{plural(done.same, 'answer')} equal to another one left out.")
    if done.failed:
        narrate(f"{plural(done.failed, 'prompt')} without; the same command asks again.")
    print_text(f"{plural(done.rows, 'row')} from {plural(done.prompts, 'prompt')}.")
    print_text(safe_line(str(request.out)))
