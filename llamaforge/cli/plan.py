"""`llamaforge plan`: memory, disk and time of a run, measured on this machine before it begins."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.options import add_json
from llamaforge.cli.output import narrate, print_folded, print_json, print_text
from llamaforge.cli.train import add_recipe, recipe_of
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, plural, size_words

if TYPE_CHECKING:
    from llamaforge.wizard.planning import Plan

_PARTS: Final = {
    "weights": "the model, as it lies packed in its file",
    "adapter": "the adapter and its gradients",
    "optimizer": "the optimizer",
    "activations": "activations of one batch",
    "logits": "the output head and logits",
    "overhead": "the program and its libraries",
}
_STAGES: Final = {
    "prepare": "check the model and the rows",
    "train": "train",
    "verify": "prove that it is served as trained",
    "evaluate": "answer held-out rows, before and after",
}


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "plan",
        help="say what a run would take: memory, disk and time",
        description="Say what a run would take on this machine, after some passes of the real "
        "model. It takes the arguments of train, makes no run and writes nothing. The exit code is "
        "3 where the run could not be done.",
    )
    add_recipe(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Measure, and print.

    Raises:
        LlamaForgeError: the model or the rows cannot be read, or a setting has no meaning.
    """
    from llamaforge.cli.launching import note
    from llamaforge.wizard.beginning import resolved
    from llamaforge.wizard.planning import DOING, plan_of

    spec = resolved(recipe_of(arguments), store=arguments.store, on_note=note)

    def tell(what: str) -> None:
        narrate(f"{DOING.get(what, what)} …")

    found = plan_of(spec, tell)
    if arguments.json:
        print_json(dict(found.body))
    else:
        _print(found, spec.model.name)
    return ExitCode.DONE if found.can_begin else ExitCode.REFUSED


def _print(found: "Plan", model: str) -> None:
    body = found.body
    print_text(f"Training {safe_line(model)} on {plural(_rows(body), 'row')}")
    print_text("")
    have = size_words(found.available_bytes)
    each = f" in each of {found.processes} processes" * (found.processes > 1)
    print_text(f"Memory   {size_words(found.memory_bytes)} at most{each}, {have} available")
    for name, words in _PARTS.items():
        print_text(f"  {size_words(body['memory_bytes'][name]):>8}  {words}")
    print_text(f"Disk     {size_words(found.disk_bytes)} at most")
    if found.seconds is not None:
        low, high = found.seconds
        print_text(f"Time     {_between(low, high)}")
        for name, (least, most) in body["seconds_by_part"].items():
            print_text(f"  {_between(least, most):>24}  {_STAGES.get(name, name)}")
    print_text("")
    phases = body.get("phases", [body])
    for number, phase in enumerate(phases, start=1):
        if len(phases) > 1:
            print_text(f"Phase {number}, {plural(phase['rows']['train'], 'row')}")
        for line in _settings(phase, phase["settings"]):
            print_folded(line)
    for problem in found.problems:
        print_text("")
        print_folded(f"{problem['message']} {problem['fix']}")


def _rows(body: Any) -> int:
    return sum(int(phase["rows"]["train"]) for phase in body.get("phases", [body]))


def _between(low: float, high: float) -> str:
    return f"{duration_words(low)} to {duration_words(high)}"


def _settings(body: Any, chosen: Any) -> Iterator[str]:
    again = ", activations computed again" * chosen["gradient_checkpointing"]
    processes = body["processes"]
    beside = f" in each of {processes} processes" * (processes > 1)
    yield (
        f"A step takes {plural(chosen['effective_batch_size'], 'row')}: "
        f"{chosen['per_device_train_batch_size']} at a time, "
        f"{plural(chosen['gradient_accumulation_steps'], 'time')}{beside}{again}; rows have up to "
        f"{chosen['max_length']:,} tokens, the longest here {body['rows']['longest_tokens']:,}."
    )
    if body["steps"]:
        yield f"{plural(body['steps'], 'step')} of {body['seconds_per_step']:.3g} s."
    largest = body["largest"]
    if largest["max_length"]:
        batch = largest["per_device_train_batch_size"]
        more = f", or {batch} of these rows at a time" if batch else ""
        yield f"At most there is room for a row of {largest['max_length']:,} tokens{more}."
