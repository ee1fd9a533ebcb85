"""`llamaforge data pairs PROMPTS… --model NAME --judge NAME --out FILE`: preference pairs."""

import argparse
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.collecting.pairs import Paired, PairsRequest
    from llamaforge.collecting.teachers import TeacherChoice

_OLLAMA: Final = "ollama"


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action to the parser of `data`."""
    parser = actions.add_parser(
        "pairs",
        help="make preference pairs from a model's answers and a judge's scores",
        description="Ask a model each prompt several times and a judge for a score from 1 to 10 "
        "of each answer; the best and the worst make a pair where they are far enough apart. The "
        "judge sees one answer at a time and sees it twice, the criteria in both orders; the mean "
        "counts. Interrupted work goes on with the same command, from FILE.journal.jsonl.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="PROMPTS",
        help="rows with a prompt, or a text file with one a line",
    )
    add_asking(parser)
    parser.add_argument(
        "--judge",
        required=True,
        metavar="NAME",
        help="the model that scores; better one of another family than --model",
    )
    parser.add_argument(
        "--judge-endpoint",
        metavar="URL",
        help="where the judge is, as --endpoint, or the word ollama; without it, with the model",
    )
    parser.add_argument(
        "--judge-api-key-env", metavar="VAR", help="the variable with the judge's key"
    )
    parser.add_argument(
        "--candidates",
        type=whole(2, 100),
        default=4,
        metavar="N",
        help="answers to each prompt (4)",
    )
    parser.add_argument(
        "--rubric", type=Path, metavar="FILE", help="the judge's criteria, one a line"
    )
    parser.add_argument(
        "--margin",
        type=finite(0, 9),
        default=2.0,
        metavar="X",
        help="points that the best must be above the worst (2)",
    )
    parser.add_argument(
        "--temperature", type=finite(0, 10), default=0.9, metavar="X", help="of the answers (0.9)"
    )
    parser.add_argument(
        "--seed",
        type=whole(0, 2**31 - 1 - 1000),
        default=0,
        metavar="N",
        help="of the first answer (0)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask, and print what came of it.

    Raises:
        LlamaForgeError: as `make_pairs`; the answers and scores so far are kept.
    """
    from llamaforge.collecting.pairs import make_pairs
    from llamaforge.collecting.patience import Retries
    from llamaforge.collecting.teachers import open_teacher

    request = _request(arguments)
    choice = teacher_choice(arguments)
    judge_choice = _judge_choice(arguments, choice)
    with ExitStack() as stack:
        teacher = stack.enter_context(open_teacher(choice))
        judge = stack.enter_context(open_teacher(judge_choice))
        narrator = stack.enter_context(
            Narrator("prompt", "prompts", request.out, as_json=arguments.json)
        )
        note_remote(arguments)
        if judge_choice.endpoint == choice.endpoint and judge.name == teacher.name:
            narrate("The model judges its own answers; one of another family judges better.")
        try:
            done = make_pairs(
                request,
                teacher,
                judge,
                narrator.watch(),
                retries=Retries(attempts=arguments.retries + 1),
            )
        except KeyboardInterrupt:
            return narrator.interrupted()
        narrator.finished(asdict(done))
    if not arguments.json:
        _tell(request, done)
    return ExitCode.DONE


def _judge_choice(arguments: argparse.Namespace, choice: "TeacherChoice") -> "TeacherChoice":
    """Return where the judge is: with the model, at an endpoint of its own, or in Ollama."""
    place: str | None = arguments.judge_endpoint
    if place is None and arguments.judge_api_key_env is None:
        return replace(choice, model=arguments.judge)
    if place is not None and place.lower() == _OLLAMA:
        place = None
    elif place is None:
        place = choice.endpoint
    return replace(
        choice, model=arguments.judge, endpoint=place, api_key_env=arguments.judge_api_key_env
    )


def _request(arguments: argparse.Namespace) -> "PairsRequest":
    from llamaforge.collecting.judge import read_rubric
    from llamaforge.collecting.pairs import PairsRequest

    rubric = arguments.rubric
    return PairsRequest(
        sources=tuple(path.expanduser() for path in arguments.sources),
        out=arguments.out.expanduser().absolute(),
        rubric=read_rubric(None if rubric is None else rubric.expanduser()),
        system=arguments.system,
        column=arguments.column,
        candidates=arguments.candidates,
        margin=arguments.margin,
        temperature=arguments.temperature,
        seed=arguments.seed,
        max_tokens=arguments.max_tokens,
        context_tokens=arguments.context,
        concurrency=arguments.concurrency,
        per_minute=arguments.rate,
        force=arguments.force,
    )


def _tell(request: "PairsRequest", done: "Paired") -> None:
    if done.rejected:
        narrate(f"{plural(done.rejected, 'row holds', 'rows hold')} no prompt.")
    if done.repeated:
        narrate(f"{plural(done.repeated, 'prompt')} stood there before; asked once.")
    if done.too_close:
        narrate(
            f"{plural(done.too_close, 'prompt')} with answers less than"
            f" {request.margin:g} points apart; --margin may be changed without asking again."
        )
    if done.too_few:
        narrate(f"{plural(done.too_few, 'prompt')} with fewer than two usable answers.")
    if done.failed:
        narrate(f"{plural(done.failed, 'prompt')} without; the same command asks again.")
    print_text(
        f"{plural(done.rows, 'pair')} from {plural(done.prompts, 'prompt')};"
        f" the longer answer was chosen in {done.longer_chosen:,}."
    )
    print_text(safe_line(str(request.out)))
