"""`llamaforge data check SOURCE… [--model MODEL]`: what a person's rows are, before training."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.options import add_json, add_reading, add_store
from llamaforge.cli.output import narrate, print_folded, print_json, print_text
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import percent_words, plural, whole_words

if TYPE_CHECKING:
    from llamaforge.data.sources import Source

_SAID_SECONDS: Final = 1.0
_SIGNS: Final = {"warn": "!", "stop": "✗"}
_WORK: Final = {"read": "rows read"}
_SHOWN_REJECTED: Final = 5
_SHOWN_EXAMPLES: Final = 3
_BAR: Final = 30


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action."""
    parser = actions.add_parser(
        "check",
        help="look through rows before training on them",
        description="Read every row, and say what it is, what is wrong with it and how long it is "
        "for the model. The exit code is 0 if a run could be trained on the rows, and 3 if not.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="files, folders, patterns, hf:OWNER/NAME, each with its share as in FILE@0.5",
    )
    parser.add_argument("--model", metavar="NAME", help="the model that is to learn from them")
    add_store(parser)
    add_reading(parser)
    parser.add_argument(
        "--max-length", type=int, metavar="TOKENS", help="tokens that a row may have"
    )
    parser.add_argument(
        "--max-rejected",
        type=float,
        default=0.05,
        metavar="PART",
        help="part of the rows that may be unusable, 0 to 1; 0.05 without it",
    )
    parser.add_argument("--chat-template", metavar="NAME", help="instead of the model's own")
    parser.add_argument(
        "--keep", action="store_true", help="freeze the rows, to train on them as snapshot:ID"
    )
    parser.add_argument(
        "--check-links",
        action="store_true",
        help="look up every image that rows link to; this asks the servers they lie on",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the report.

    Raises:
        LlamaForgeError: the rows or the model cannot be read at all.
    """
    from llamaforge.data.sources import parse_source
    from llamaforge.recipe.check_request import CheckRequest
    from llamaforge.recipe.documents import parse
    from llamaforge.recipe.spec import DataChoice
    from llamaforge.runs.data_checks import check

    data = parse(
        DataChoice,
        {
            "sources": [parse_source(source).absolute() for source in arguments.sources],
            "map": arguments.map,
            "preference": arguments.preference,
            "images": arguments.images,
            "allow_secrets": arguments.allow_secrets,
            "max_length": arguments.max_length,
            "max_rejected_fraction": arguments.max_rejected,
        },
        "The command",
    )
    found = check(
        parse(
            CheckRequest,
            {
                "data": data,
                "model": arguments.model,
                "store": arguments.store,
                "chat_template": arguments.chat_template,
                "keep": arguments.keep,
            },
            "The command",
        ).model_dump_json(),
        _Narrator().tell,
    )
    if arguments.check_links:
        found["links"] = _links(data.sources)
    if arguments.json:
        print_json(found)
    else:
        _print(found)
        if arguments.model is None:
            narrate("To see how long they are for a model, add: --model NAME")
    return ExitCode.DONE if found["can_train"] else ExitCode.REFUSED


def _links(sources: "Sequence[Source]") -> dict[str, Any]:
    from llamaforge.collecting.links import check_links
    from llamaforge.data.sources import expand
    from llamaforge.runs.hub_fetch import fetch_dataset

    narrator = _Narrator()
    files = expand(sources, fetch_dataset).paths
    return check_links(files, lambda done, _: narrator.tell("links looked up", done)).to_json()


class _Narrator:
    """Says every second how many rows were read."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def tell(self, what: str, rows: int) -> None:
        """Take the progress of a check."""
        now = time.monotonic()
        if rows and now - self._said >= _SAID_SECONDS:
            self._said = now
            narrate(f"{rows:,} {_WORK.get(what, what)}")


def _print(found: dict[str, Any]) -> None:
    from llamaforge.data.check import LISTED

    for source in found["sources"]:
        print_folded(
            f"{safe_line(source['path'])}: {source['container']}, {source['format']} "
            f"({percent_words(source['confidence'])} sure; {safe_line(source['reason'])})"
        )
    rows = found["rows"]
    left_out = f", {rows['left_out']:,} left out by weight" if rows["left_out"] else ""
    if rows["repeated"]:
        left_out += f"; {rows['repeated']:,} taken once more by weight"
    print_folded(
        f"{plural(rows['read'], 'row')}: {rows['accepted']:,} used as they are, "
        f"{rows['repaired']:,} "
        f"repaired, {rows['rejected']:,} cannot be used{left_out}"
    )
    for rule, count in found["repairs"].items():
        print_text(f"    {count:,} × {rule.replace('_', ' ')}")
    for row in found["rejected"][:_SHOWN_REJECTED]:
        place = f"{safe_line(Path(row['source']).name)} row {row['line']:,}"
        print_folded(f"{place}: {safe_line(row['reason'])}", indent=4)
    if len(found["rejected"]) > _SHOWN_REJECTED:
        most = f"the first {LISTED:,}" if rows["rejected"] > LISTED else "all"
        print_text(f"    … {most} of them with --json")
    if found["model"] is not None:
        model = found["model"]
        template = {"file": "its own", "given": "the given"}.get(
            model["template"], f"the known {model['template']}"
        )
        print_folded(f"For {safe_line(model['name'])}, rendered with {template} chat template")
    for section in found["analysis"]["sections"]:
        _print_section(section)
    _print_lengths(found["analysis"]["lengths"])
    _print_verdict(found["problems"])
    if "links" in found:
        _print_links(found["links"])
    if found.get("snapshot"):
        print_text(f"Frozen: train on them with --data snapshot:{found['snapshot'][:16]}")


def _print_section(section: dict[str, Any]) -> None:
    line = f"{section['title']}: {safe_line(section['message'])}"
    if section["severity"] == "info":
        print_folded(line, indent=2)
        return
    print_folded(f"{_SIGNS[section['severity']]} {line}")
    for example in section["examples"][:_SHOWN_EXAMPLES]:
        place = f"{safe_line(Path(example['source']).name)} row {example['line']:,}"
        print_folded(f"{place}: {safe_line(example['text'], limit=100)}", indent=4)


def _print_links(found: dict[str, Any]) -> None:
    broken = found["broken"]
    print_folded(
        f"{'!' if broken else ' '} Links: {found['looked_up']:,} of {found['links']:,} images were "
        f"looked up, {len(broken):,} of them are not there."
    )
    for link in broken[:_SHOWN_EXAMPLES]:
        place = f"{safe_line(Path(link['source']).name)} row {link['line']:,}"
        print_folded(f"{place}: {safe_line(link['address'], limit=80)}: {link['reason']}", indent=4)


def _print_lengths(lengths: dict[str, Any] | None) -> None:
    if lengths is None:
        return
    tokens = lengths["tokens"]
    print_folded(
        f"Tokens a row: half have up to {whole_words(tokens['p50'])}, 95 % up to "
        f"{whole_words(tokens['p95'])}, 99 % up to {whole_words(tokens['p99'])}, the longest "
        f"{whole_words(tokens['max'])}",
        indent=2,
    )
    most = max((item["rows"] for item in lengths["histogram"]), default=0)
    for item in lengths["histogram"]:
        bar = "█" * max(1 if item["rows"] else 0, round(_BAR * item["rows"] / max(most, 1)))
        print_text(
            f"    {item['low']:>6,} – {item['high']:>6,}  {item['rows']:>8,}  {bar}".rstrip()
        )
    print_text(f"  Suggested: --set max_length={lengths['suggested_max_length']}")


def _print_verdict(problems: list[dict[str, str]]) -> None:
    stops = [item for item in problems if item["level"] == "stop"]
    others = {
        "sources",
        "template_refuses",
        "template_slow",
        "rejected_rows",
        "empty_dataset",
        "unlearned_words",
    }
    for item in problems:
        if item["level"] == "warn" and item["code"] in others:
            print_folded(f"! {safe_line(item['message'])}")
    if not stops:
        print_text("A run could be trained on these rows.")
        return
    print_text("No run could be trained on these rows:")
    for item in stops:
        print_folded(f"✗ {safe_line(item['message'])}")
