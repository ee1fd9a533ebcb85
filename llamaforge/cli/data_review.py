"""`llamaforge data review FILE`: rows on the terminal, one at a time, for a person to judge."""

import argparse
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from llamaforge.cli.options import add_json
from llamaforge.cli.output import has_dialogue, narrate, print_json, print_text
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.safe_text import safe_line, safe_text
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.collecting.review import Decision, Review, Texts
    from llamaforge.data.records import Record

CHOICES: Final = {
    "a": "accept",
    "e": "edit",
    "r": "reject",
    "l": "label",
    "u": "undo",
    "q": "quit",
}
_SHOWN_CHARACTERS: Final = 6_000
_WORDS: Final = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action to the parser of `data`."""
    parser = actions.add_parser(
        "review",
        help="accept, edit, reject or label rows one by one",
        description="Show the rows of a file one at a time and ask what becomes of each. Every "
        "decision is saved at once in FILE.review.jsonl; the same command goes on from there.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a data file")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the rows that were kept there, at the end"
    )
    parser.add_argument("--force", action="store_true", help="replace the file at --out")
    parser.add_argument(
        "--summary", action="store_true", help="ask nothing: say how far the review is"
    )
    parser.add_argument(
        "--plain", action="store_true", help="ask with plain lines instead of menus"
    )
    add_json(parser)
    parser.set_defaults(run=run)


class Asker(Protocol):
    """Who asks the person. What raises EOFError or KeyboardInterrupt ends the review."""

    def show(self, text: str) -> None:
        """Show text that is safe."""

    def choose(self) -> str:
        """Return one of the values of `CHOICES`."""

    def label(self) -> str:
        """Return a label; an empty one means none after all."""

    def edit(self, texts: "Texts") -> "Texts | None":
        """Return what the person made of a row; None where they left it.

        Raises:
            RowError: what they made of it cannot stand.
            LlamaForgeError: the editor failed.
        """


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask about each row that is not decided, and print how far the review is.

    Raises:
        RefusedError: there is no terminal to ask on (`no_terminal`).
        LlamaForgeError: as `Review`; every decision made is kept.
    """
    from llamaforge.collecting.review import Review
    from llamaforge.data.containers import require_file
    from llamaforge.data.formats import detect, require_readable
    from llamaforge.data.row_writer import require_free

    path = arguments.file.expanduser().absolute()
    require_file(path)
    require_readable(path, detect(path), want="any")
    out: Path | None = arguments.out
    if out is not None:
        out = out.expanduser().absolute()
        require_free(out, force=arguments.force)
    if not (arguments.summary or has_dialogue()):
        raise RefusedError(
            "A review asks a person, and there is no terminal to ask on.",
            "Run it in a terminal, or add --summary to see how far it is.",
            code="no_terminal",
        )
    code = ExitCode.DONE
    with Review(path) as review:
        if not arguments.summary:
            code = go_through(review, _asker(plain=arguments.plain))
        _finish(review, out, as_json=arguments.json)
    return code


def _asker(*, plain: bool) -> Asker:
    if plain or os.environ.get("TERM", "dumb") == "dumb":
        return PlainAsker()
    return MenuAsker()


def go_through(review: "Review", asker: Asker) -> ExitCode:
    """Ask about rows until all are decided or the person has enough; return the exit code."""
    from llamaforge.data.records import RowError

    row = review.next() or _taken_back(review, asker)
    while row is not None:
        asker.show(shown(row))
        try:
            choice = asker.choose()
            if choice == "quit":
                return ExitCode.DONE
            if choice == "undo":
                asker.show("Taken back." if review.undo() else "There is nothing to take back.")
                row = review.next() or row
                continue
            decision = _decision(choice, row, asker)
            if decision is not None:
                review.decide(row, decision)
                row = review.next()
        except (EOFError, KeyboardInterrupt):
            return ExitCode.INTERRUPTED
        except (RowError, LlamaForgeError) as error:
            asker.show(f"Not saved: {safe_line(str(error)).rstrip('.')}.")
    return ExitCode.DONE


def _taken_back(review: "Review", asker: Asker) -> "Record | None":
    """Offer to take decisions back where none is left to make; return the row of the newest."""
    asker.show("All rows are decided: undo or quit.")
    try:
        if asker.choose() == "undo" and review.undo() is not None:
            return review.next()
    except (EOFError, KeyboardInterrupt):
        pass
    return None


def _decision(choice: str, row: "Record", asker: Asker) -> "Decision | None":
    """Return the decision that `choice` leads to; None where the person thought better of it."""
    from llamaforge.collecting.review import Decision, texts_of

    if choice == "label":
        label = asker.label().strip()
        return Decision("label", label=label) if label else None
    if choice == "edit":
        texts = asker.edit(texts_of(row))
        return None if texts is None else Decision("edit", texts=texts)
    return Decision("accept" if choice == "accept" else "reject")


def shown(row: "Record") -> str:
    """Return a row for the terminal; nothing in it can act on the terminal."""
    lines = [f"── row {row.row:,} " + "─" * 40]
    for where, turns in (
        ("", row.messages),
        (" (chosen)", row.chosen),
        (" (rejected)", row.rejected),
    ):
        for turn in turns:
            lines.append(f"{_WORDS[turn.role]}{where}:")
            lines.append(_shortened(turn.words))
    return "\n".join(lines)


def _shortened(text: str) -> str:
    rest = len(text) - _SHOWN_CHARACTERS
    body = safe_text(text[:_SHOWN_CHARACTERS])
    return f"{body}\n… {rest:,} characters more; edit shows them" if rest > 0 else body


def _finish(review: "Review", out: Path | None, *, as_json: bool) -> None:
    written = None if out is None else review.write_kept(out)
    summary = review.summary()
    if as_json:
        body: dict[str, Any] = asdict(summary) | {"review": str(review.file)}
        if out is not None:
            body |= {"out": str(out) if written else None, "written": written}
        print_json(body)
        return
    print_text(
        f"{summary.decided:,} of {plural(summary.rows, 'row')} decided: {summary.accepted:,} "
        f"accepted,"
        f" {summary.edited:,} edited, {summary.labelled:,} labelled, {summary.rejected:,} rejected."
    )
    if summary.left:
        narrate(f"{summary.left:,} are left; the same command goes on with them.")
    if out is None:
        narrate("Add --out FILE to write the rows that were kept.")
    elif written:
        print_text(safe_line(str(out)))
    else:
        narrate("No row was kept, so no file was written.")


class PlainAsker:
    """Asks with lines on standard error, as any terminal can."""

    def show(self, text: str) -> None:
        """Show text."""
        narrate(text)

    def choose(self) -> str:
        """Return the choice; its letter and its word are understood."""
        while True:
            narrate("[a]ccept  [e]dit  [r]eject  [l]abel  [u]ndo  [q]uit")
            word = _line().strip().lower()
            choice = CHOICES.get(word, word)
            if choice in CHOICES.values():
                return choice

    def label(self) -> str:
        """Return a label."""
        narrate("Label:")
        return _line()

    def edit(self, texts: "Texts") -> "Texts | None":
        """Edit in the person's editor, or else ask for the last answer."""
        from llamaforge.collecting.review import with_answer

        if editor():
            return edit_outside(texts)
        narrate("The answer, ended by a line with a single dot; only the dot leaves it as it was:")
        lines: list[str] = []
        while (line := _line().rstrip("\n")) != ".":
            lines.append(line)
        return with_answer(texts, "\n".join(lines)) if lines else None


class MenuAsker(PlainAsker):
    """Asks with menus of questionary, on standard error: standard output is for data."""

    def choose(self) -> str:
        """Return the choice, made by its letter or with the arrow keys."""
        import questionary

        choices = [
            questionary.Choice(word, shortcut_key=letter) for letter, word in CHOICES.items()
        ]
        question = questionary.select(
            "This row:", choices=choices, use_shortcuts=True, output=_stderr()
        )
        return str(question.unsafe_ask())

    def label(self) -> str:
        """Return a label."""
        import questionary

        return str(questionary.text("Label:", output=_stderr()).unsafe_ask())

    def edit(self, texts: "Texts") -> "Texts | None":
        """Edit in the person's editor, or else the last answer in place."""
        import questionary

        from llamaforge.collecting.review import last_answer, with_answer

        if editor():
            return edit_outside(texts)
        before = last_answer(texts)
        question = questionary.text(
            "The answer:",
            default=before,
            multiline=True,
            output=_stderr(),
        )
        after = str(question.unsafe_ask())
        return None if after == before else with_answer(texts, after)


def _stderr() -> Any:
    from prompt_toolkit.output import create_output

    return create_output(stdout=sys.stderr)


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def editor() -> list[str]:
    """Return the command of the person's editor: `VISUAL`, else `EDITOR`; empty without one."""
    given = os.environ.get("VISUAL", "").strip() or os.environ.get("EDITOR", "").strip()
    try:
        return shlex.split(given)
    except ValueError:
        return []


def edit_outside(texts: "Texts") -> "Texts | None":
    """Let the person's editor change a row; None where it was left as it was.

    Raises:
        RowError: what it became cannot stand.
        LlamaForgeError: the editor cannot be started, or failed.
    """
    from llamaforge.collecting.review import editable, edited

    nonce = secrets.token_hex(4)
    before = editable(texts, nonce)
    with tempfile.TemporaryDirectory(prefix="llamaforge-") as folder:
        path = Path(folder) / "row.txt"  # only this user may look into the folder
        path.write_text(before, encoding="utf-8", newline="")
        try:
            done = subprocess.run([*editor(), str(path)], check=False)
            after = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LlamaForgeError(
                "The editor could not be used.", "Set EDITOR to another one.", code="editor"
            ) from error
    if done.returncode != 0:
        raise LlamaForgeError("The editor ended with an error.", "Try again.", code="editor")
    return None if after == before else edited(after, texts, nonce)
