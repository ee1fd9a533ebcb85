"""`python -m llamaforge.worker.importance RUN FILE`: an importance matrix from a run's own rows.

The tuned model reads rows that it was trained on; what its matrices are multiplied with is added up
and written to FILE. Each line of output is one JSON object: `{"done", "total"}` tokens, and last
`{"rows", "tokens"}` or `{"error": …}`. It is a process of its own because it loads torch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.gguf.header import Header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory, open_run
from llamaforge.worker.job import conversations_of
from llamaforge.worker.loading import load_libraries
from llamaforge.worker.sampling import spread
from llamaforge.worker.train import final_checkpoint

if TYPE_CHECKING:
    from llamaforge.worker.trained import Trained

_ENOUGH_TOKENS: Final = 32_768
"""More change the matrix little; each costs a third of a training step's time."""
_MOST_ROWS: Final = 512


def main(arguments: list[str]) -> ExitCode:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("file", type=Path)
    parser.add_argument("--adapter-digest", required=True)
    options = parser.parse_args(arguments)
    try:
        _print(measure(open_run(options.run), options.file, options.adapter_digest))
    except LlamaForgeError as error:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        _print({"error": body})
        return error.exit_code
    return ExitCode.DONE


def measure(run: RunDirectory, path: Path, adapter_digest: str) -> dict[str, int]:
    """Write the importance matrix of the run's tuned model to `path`; return what was read.

    Raises:
        LlamaForgeError: the run's rows, its last checkpoint or its model are gone or damaged.
    """
    load_libraries()
    from llamaforge.export.importance import Sums, write_importance
    from llamaforge.training.importance import measure_importance

    spec = RunSpec.load(run.spec_file)
    header = read_model(spec.model.blob, spec.model.files)
    rows = chosen_rows([item.row.ids for item in conversations_of(run, spec, header).rows.train])
    if not rows:
        raise RefusedError(
            "The run has no rows that an importance matrix could be measured on.",
            "Leave out --imatrix.",
            code="no_rows",
        )
    trained = _tuned(run, spec, header)
    tokens = [len(ids) for ids in rows]

    def on_row(done: int) -> None:
        _print({"done": sum(tokens[:done]), "total": sum(tokens)})

    sums = measure_importance(trained.packed, trained.model, header, rows, on_row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_importance(
        path,
        {name: Sums(found.squares, found.counts) for name, found in sums.items()},
        rows=len(rows),
        row_tokens=max(tokens),
        adapter_digest=adapter_digest,
    )
    return {"rows": len(rows), "tokens": sum(tokens)}


def _tuned(run: RunDirectory, spec: RunSpec, header: Header) -> "Trained":
    """Return the model's own file with the run's adapter, wherever that was trained."""
    from llamaforge.export.base_run import learned_file
    from llamaforge.export.learned import factors_over, read_learned
    from llamaforge.worker.trained import lay_over, load_trained

    if spec.model.full is None:
        return load_trained(header, spec.training, final_checkpoint(run))
    learned = read_learned(learned_file(run), spec.training)
    return lay_over(header, spec.training, factors_over(header, learned))


def chosen_rows(rows: Sequence[list[int]]) -> list[list[int]]:
    """Return some of `rows`, evenly taken from all, with some ten thousand tokens together."""
    found: list[list[int]] = []
    total = 0
    for ids in spread(rows, _MOST_ROWS):
        if found and total + len(ids) > _ENOUGH_TOKENS:
            break
        found.append(ids)
        total += len(ids)
    return found


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
