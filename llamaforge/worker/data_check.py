"""`python -m llamaforge.worker.data_check`: looks through the rows that a person has.

Rows are rendered with a chat template, which is a program from outside, so this is a process of its
own. One request stands on standard input as JSON; answers follow on standard output as JSON lines:
`progress`, and last `report` or `error`. `runs.data_checks` is the other side.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.data import library
from llamaforge.data.check import Watch, collect, judge, source_files, streamed, take_in_nothing
from llamaforge.data.records import SPLITS
from llamaforge.data.repairs import repaired_rows
from llamaforge.data.row_refs import is_labelled, is_pair
from llamaforge.data.shapes import LABELLED, PREFERENCE
from llamaforge.data.snapshot import read_snapshot, write_snapshot
from llamaforge.errors import (
    ExitCode,
    LlamaForgeError,
    RefusedError,
    UsageError,
)
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.runs.hub_fetch import fetch_dataset
from llamaforge.worker.measured_rows import RenderedRows, rendered_rows

if TYPE_CHECKING:
    from llamaforge.data.analysis import Analysis


def main() -> int:
    """Answer the request on standard input, and return an exit code."""
    try:
        request = CheckRequest.model_validate_json(sys.stdin.buffer.read())
        _say("report", report(request))
    except LlamaForgeError as error:
        _say(
            "error",
            {
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "exit_code": int(error.exit_code),
            },
        )
        return int(error.exit_code)
    return int(ExitCode.DONE)


def report(request: CheckRequest) -> dict[str, Any]:
    """Return what the rows show, and what stands in the way of training on them.

    Raises:
        LlamaForgeError: the rows or the model cannot be read at all.
    """
    from llamaforge.data.analysis import analyse

    data = request.data
    measure, context = rendered_rows(request)
    if data.snapshot is not None:
        return _frozen_report(request, measure, context)
    intake = take_in_nothing(data.sources, choices=data.choices, fetch=fetch_dataset, brief=True)
    watch = Watch(lambda what, rows: _say("progress", {"what": what, "rows": rows}))
    analysis = analyse(
        streamed(intake, seed=data.split_seed, watch=watch),
        measure=measure,
        max_length=data.max_length,
        context=context,
        allow_secrets=data.allow_secrets,
    )
    problems = [
        *({"level": "warn", "code": "sources", "message": text} for text in intake.warnings),
        *(item for item in analysis.problems()),
        *(measure.problems() if measure else ()),
    ]
    try:
        judge(intake, data.max_rejected_fraction)
    except LlamaForgeError as error:
        problems.append({"level": "stop", "code": error.code, "message": error.message})
    files = source_files(intake)
    can_train = not _stops(problems)
    return _body(analysis, measure, problems) | {
        "sources": [
            asdict(found) | {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
            for file, found in zip(files, intake.detections, strict=True)
        ],
        "rows": {
            "read": intake.read,
            "accepted": analysis.rows - intake.repaired,
            "repaired": intake.repaired,
            "rejected": intake.bad,
            "left_out": intake.left_out,
            "repeated": intake.repeated,
        },
        "repairs": dict(intake.repairs),
        "repaired": [
            {"source": item.source, "line": item.row, "rule": item.rule}
            for item in repaired_rows(intake.mended)
        ],
        "rejected": [
            {"source": row.source, "line": row.row, "reason": row.reason} for row in intake.rejected
        ],
        "snapshot": _kept(request) if request.keep and can_train else None,
    }


def _stops(problems: list[dict[str, str]]) -> bool:
    return any(item["level"] == "stop" for item in problems)


def _body(
    analysis: "Analysis", measure: RenderedRows | None, problems: list[dict[str, str]]
) -> dict[str, Any]:
    """Return the part of a report that says what the rows show."""
    lengths = analysis.lengths
    return {
        "model": measure.facts() if measure else None,
        "tokens": None
        if lengths is None
        else {"p50": lengths.p50, "p95": lengths.p95, "p99": lengths.p99, "max": lengths.max},
        "suggested_max_length": None if lengths is None else lengths.suggested_max_length,
        "truncated_answers": None if lengths is None else lengths.truncated_answers,
        "duplicates": {"exact": analysis.duplicates.exact, "near": analysis.duplicates.near},
        "secrets": [finding.to_json() for finding in analysis.privacy.secrets],
        "analysis": analysis.to_json(),
        "problems": problems,
        "can_train": not _stops(problems),
    }


def _frozen_report(
    request: CheckRequest, measure: RenderedRows | None, context: int | None
) -> dict[str, Any]:
    """Return what rows show that were frozen before: judged then, they are only measured now."""
    from llamaforge.data.analysis import analyse

    data = request.data
    manifest, splits = read_snapshot(library.find(data.snapshot or "").folder)
    records = [record for side in SPLITS for record in splits[side]]
    pairs = any(map(is_pair, records))
    labelled = not pairs and any(map(is_labelled, records))
    analysis = analyse(
        records,
        measure=measure,
        max_length=data.max_length,
        context=context,
        allow_secrets=True,
    )
    problems = [*analysis.problems(), *(measure.problems() if measure else ())]
    if (pairs or labelled) and data.preference == "refuse":
        what, method = (
            ("preference pairs", "dpo")
            if pairs
            else ("answers that are labelled good or bad", "kto")
        )
        raise UsageError(
            f"These rows were frozen as {what}.",
            f"Learn from them with --method {method}.",
            code="unsupported_format",
        )
    form = PREFERENCE if pairs else LABELLED if labelled else ""
    count = len(records)
    return _body(analysis, measure, problems) | {
        "sources": [
            source.model_dump()
            | {
                "format": form or _of_answers(source.format),
                "confidence": 1.0,
                "reason": "frozen",
            }
            for source in manifest.sources
        ],
        "rows": {"read": count, "accepted": count}
        | dict.fromkeys(("repaired", "rejected", "left_out", "repeated"), 0),
        "repairs": {},
        "repaired": [],
        "rejected": [],
        "snapshot": manifest.id,
    }


def _of_answers(found: str) -> str:
    """Return the format of frozen conversations, which may be the better sides of pairs."""
    return "chat" if found == PREFERENCE else found


def _kept(request: CheckRequest) -> str:
    """Freeze the rows as a run would, and return the snapshot's id.

    Raises:
        LlamaForgeError: as `collect`; or there is no room for it.
    """
    data = request.data
    collected = collect(
        data.sources,
        max_rejected_fraction=data.max_rejected_fraction,
        division=data.division,
        choices=data.choices,
        allow_secrets=data.allow_secrets,
        fetch=fetch_dataset,
    )
    home = library.folder()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=home, prefix=".check-") as folder:
            manifest = write_snapshot(Path(folder), collected.splits, collected.report)
            library.keep(Path(folder))
    except OSError as error:
        raise RefusedError(
            f"The rows cannot be kept in {home}: {error.strerror}.",
            "Free some space, or set LLAMAFORGE_HOME to a folder of your own.",
            code="not_kept",
        ) from error
    return manifest.id


def _say(kind: str, body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"type": kind} | body, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
