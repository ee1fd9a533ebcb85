"""`llamaforge doctor`: what this machine offers, what is wrong, and what to do about it."""

import argparse
from typing import Final

from llamaforge.cli.options import add_json, add_stores
from llamaforge.cli.output import print_folded, print_json, print_text
from llamaforge.errors import ExitCode

_TITLES: Final = {
    "machine": "This machine",
    "environment": "Environment",
    "program": "LlamaForge",
    "ollama": "Ollama",
    "hub": "Hugging Face Hub",
    "runs": "Runs",
}
_MARKS: Final = {"pass": "ok  ", "warn": "note", "fail": "BAD "}


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "doctor",
        help="look at this machine, Ollama, the Hub's cache and the environment",
        description="Say what this machine, Ollama, the Hub's cache and the environment offer, "
        "what is wrong, and what to do about it. Nothing is changed. The exit code is 1 where "
        "something keeps LlamaForge from working.",
    )
    add_stores(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Look, and print."""
    from llamaforge.wizard.health import examined

    sections = []
    for section in examined(arguments.stores):
        sections.append(section)
        if arguments.json:
            continue
        print_text(_TITLES[section.name])
        for check in section.checks:
            print_folded(f"{_MARKS[check.verdict]}  {check.title}: {check.message}", indent=2)
            if check.hint:
                print_folded(check.hint, indent=8)
    verdicts = [check.verdict for section in sections for check in section.checks]
    failed, warned = verdicts.count("fail"), verdicts.count("warn")
    if arguments.json:
        print_json(
            {
                "sections": [section.to_json() for section in sections],
                "problems": [
                    {
                        "level": "stop" if check.verdict == "fail" else "warn",
                        "code": f"{section.name}.{check.title.lower().replace(' ', '_')}",
                        "message": check.message,
                        "fix": check.hint,
                    }
                    for section in sections
                    for check in section.checks
                    if check.verdict != "pass"
                ],
            }
        )
    else:
        print_text("")
        print_text(_summary(failed, warned))
    return ExitCode.FAILED if failed else ExitCode.DONE


def _summary(failed: int, warned: int) -> str:
    if failed:
        return "What is marked BAD keeps LlamaForge from working; below it stands what to do."
    if warned:
        return "LlamaForge works here; what is marked note could be better."
    return "Everything is as it should be."
