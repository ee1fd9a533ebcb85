"""`python -m llamaforge.evaluation.check_file FILE`: whether llama.cpp takes a merged file.

With `--like BLOB… --adapter ADAPTER` its answers are held against what the server would give with
the adapter. Prints one JSON object; the exit code is 0 where the file was loaded.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.evaluation.llama import Server
from llamaforge.gguf.llama_files import llama_files, remove_leftovers
from llamaforge.gguf.model_file import read_model

_TOKENS = 64
_SEED = 20_240


def main(arguments: list[str]) -> ExitCode:
    """Load the file, compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--like", type=Path, nargs="+", default=[])
    parser.add_argument("--adapter", type=Path)
    options = parser.parse_args(arguments)
    try:
        found = check_file(options.file, like=options.like, adapter=options.adapter)
    except LlamaForgeError as error:
        _print({"loads": False, "message": error.message, "hint": error.hint})
        return ExitCode.FAILED
    except OSError as error:
        message = f"it cannot be read, or copied beside it to be read: {error.strerror}."
        _print({"loads": False, "message": message})
        return ExitCode.FAILED
    _print(found)
    return ExitCode.DONE


def check_file(path: Path, *, like: Sequence[Path], adapter: Path | None) -> dict[str, Any]:
    """Return what llama.cpp makes of `path`: `tokens` compared, `kl_mean`, `kl_base_mean`.

    The ids are random: they reach every part of the model, and need no text.

    Args:
        path: the merged file.
        like: all files of the model it was made of; none to compare with nothing.
        adapter: what was merged in.

    Raises:
        LlamaForgeError: llama.cpp does not take the file.
        OSError: there is no room for the files as the server reads them.
    """
    folder = path.parent
    remove_leftovers(folder)
    with llama_files(read_model(path), folder) as files:
        whole = _answers(files, None)
    found: dict[str, Any] = {"loads": True, "tokens": len(whole)}
    if like:
        with llama_files(read_model(like[0], like), folder) as files:
            served = _answers(files, adapter)
            if served.shape == whole.shape:
                found["kl_mean"] = _divergence(served, whole)
                found["kl_base_mean"] = _divergence(served, _answers(files, None))
    return found


def _answers(files: Sequence[Path], adapter: Path | None) -> npt.NDArray[np.float32]:
    with Server(files, context=2 * _TOKENS, adapter=adapter) as server:
        server.use_adapter(adapter is not None)
        ids = np.random.default_rng(_SEED).integers(0, server.vocab_size, _TOKENS).tolist()
        return server.log_probabilities(ids, range(_TOKENS))


def _divergence(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32]) -> float:
    """Return the mean KL(p ‖ q) in nats a token, of natural logarithms [n, vocabulary]."""
    return float((np.exp(p.astype(np.float64)) * (p - q)).sum(axis=-1).mean())


def _print(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
