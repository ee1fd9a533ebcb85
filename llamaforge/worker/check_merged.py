"""`python -m llamaforge.worker.check_merged RUN_DIR FILE`: a merged file against what was trained.

For runs on a full-precision base: the rows of the run's proof go through the trained model in
torch, through the file in llama.cpp and through the model's own. Prints one JSON object, as
`llamaforge.evaluation.check_file` does.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.gguf.llama_files import llama_files, remove_leftovers
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.worker.job import conversations_of, max_length_of
from llamaforge.worker.loading import load_libraries
from llamaforge.worker.verify import proof_rows

_ROWS: Final = 8


def main(arguments: list[str]) -> ExitCode:
    """Load the file, compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    try:
        found = check_merged(RunDirectory(options.run), options.file)
    except LlamaForgeError as error:
        _print({"loads": False, "message": error.message, "hint": error.hint})
        return ExitCode.FAILED
    except OSError as error:
        message = f"it cannot be read, or copied beside it to be read: {error.strerror}."
        _print({"loads": False, "message": message})
        return ExitCode.FAILED
    _print(found)
    return ExitCode.DONE


def check_merged(run: RunDirectory, path: Path) -> dict[str, Any]:
    """Return how far the answers of the file, and of the model before, are from what was trained.

    Raises:
        LlamaForgeError: llama.cpp does not take the file, or the base is gone.
    """
    load_libraries()
    from llamaforge.evaluation.fidelity import FidelityRow, measure_distance
    from llamaforge.evaluation.pair import ServedPair
    from llamaforge.export.base_run import base_of, learned_file
    from llamaforge.worker.trained_base import load_trained_base

    spec = RunSpec.load(run.spec_file)
    full, header = base_of(spec), read_model(spec.model.blob, spec.model.files)
    encoded = conversations_of(run, spec, header).rows
    chosen = proof_rows(encoded, min(_ROWS, spec.evaluation.fidelity_rows))
    rows = [FidelityRow(item.row.ids, item.row.trained) for item in chosen]
    remove_leftovers(path.parent)
    with (
        llama_files(header, path.parent) as before,
        llama_files(read_model(path), path.parent) as tuned,
        ServedPair(before, tuned, context=max_length_of(spec)) as served,
    ):
        # It was merged into the full precision, also where that was held as NF4 while it learned.
        settings = spec.training.model_copy(update={"load_in_4bit": False})
        trained = load_trained_base(header, full, settings, learned_file(run))
        return {"loads": True} | measure_distance(trained, served, rows)


def _print(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
