"""A dataset of the Hugging Face Hub as Parquet files, one a split.

Run as `python -m llamaforge.worker.hub_dataset hf:OWNER/NAME`, it writes one line of JSON to
standard output: `{"paths": […]}`, or `{"error": {"message", "hint", "code", "exit"}}`. That is how
parts of the program reach it that never load `datasets` themselves.

No code of a dataset is run: `datasets` 4 and later refuses scripts, and of its own readers only
those for rows of text are let through.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from llamaforge import paths
from llamaforge.catalog.hub_errors import HubError, HubNotFoundError, HubRefusedError
from llamaforge.data.sources import HubDataset, hub_dataset, parse_source
from llamaforge.errors import ExitCode, InvalidFileError, LlamaForgeError, UsageError
from llamaforge.files import commit
from llamaforge.safe_text import redact, safe_line

_READERS: Final = frozenset({"json", "csv", "parquet", "arrow", "text", "cache"})
_MEDIA: Final = frozenset({"Image", "Audio", "Video", "Pdf", "Nifti", "Mesh"})
_SPLIT_NAME: Final = re.compile(r"\w+(\.\w+)*")
_ROWS_AT_ONCE: Final = 1000


def materialise(dataset: HubDataset | str, folder: Path | None = None) -> list[Path]:
    """Return the Parquet files that hold `dataset`, each named after its split.

    What is in the cache of `datasets` is not downloaded again, and with `HF_HUB_OFFLINE` nothing
    is asked of the network. The files are made once for every state of the cache.

    Args:
        dataset: which, or as a text `hf:owner/name[:config][/split]`.
        folder: where the files are kept; by default `datasets` in the program's home.

    Raises:
        UsageError: the text names no dataset, the configuration or the split does not exist, or
            one of several configurations has to be chosen.
        HubNotFoundError: the Hub has no such dataset, or hides it (`no_dataset`).
        HubRefusedError: it is gated (`gated_dataset`), needs code of its own (`dataset_script`),
            or holds other things than text (`media_dataset`).
        HubError: the Hub cannot be reached (`hub_offline`), or the download failed
            (`dataset_failed`).
        InvalidFileError: its files cannot be read as rows (`invalid_dataset_files`).
    """
    wanted = _parsed(dataset) if isinstance(dataset, str) else dataset
    if int(importlib.metadata.version("datasets").partition(".")[0]) < 4:
        raise UsageError(
            "The installed version of datasets runs code that datasets bring with them.",
            "Update it: pip install --upgrade 'datasets>=4'",
            code="old_datasets",
        )
    if Path(wanted.id).is_dir():  # `datasets` would take it in place of the Hub's
        raise UsageError(
            f"{safe_line(wanted.text())} cannot be told from the folder {safe_line(wanted.id)}.",
            "Start the program in another folder; for the folder itself, leave out hf:.",
            code="dataset_is_folder",
        )
    with _errors(wanted):
        builder, splits = _prepared(wanted)
        place = folder or paths.home() / "datasets"
        return [_written(split, data, place, wanted, builder) for split, data in splits.items()]


def _parsed(text: str) -> HubDataset:
    name = text if text.startswith("hf:") else f"hf:{text}"
    found = hub_dataset(parse_source({"path": name}))
    assert found is not None  # `hf:` is a dataset, or an error  # noqa: S101
    return found


def _prepared(wanted: HubDataset) -> tuple[Any, dict[str, Any]]:
    """Download what is needed; return its builder, and a `Dataset` for every split."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    builder = datasets.load_dataset_builder(wanted.id, wanted.config)
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in _READERS:
        raise _media(wanted, f"it is made for the reader {safe_line(reader)}")
    builder.download_and_prepare()
    media = _media_column(builder.info.features or {})
    if media:
        raise _media(wanted, f"its column {safe_line(repr(media), limit=60)} holds media")
    found = builder.as_dataset(split=wanted.split)
    splits = {wanted.split: found} if wanted.split else dict(found)
    return builder, {_require_name(name, wanted): data for name, data in splits.items()}


def _media_column(features: Any) -> str | None:
    """Return the first column that holds media, at any depth."""
    return next((name for name, kind in features.items() if _is_media(kind)), None)


def _is_media(kind: Any) -> bool:
    if isinstance(kind, dict):
        return any(map(_is_media, kind.values()))
    if isinstance(kind, list | tuple):
        return any(map(_is_media, kind))
    inner = getattr(kind, "feature", None)  # what a list is made of
    return type(kind).__name__ in _MEDIA or (inner is not None and _is_media(inner))


def _media(wanted: HubDataset, reason: str) -> HubRefusedError:
    return HubRefusedError(
        f"The dataset {safe_line(wanted.id)} cannot be trained on: {reason}.",
        "Choose one that holds rows of text.",
        code="media_dataset",
    )


def _require_name(split: str, wanted: HubDataset) -> str:
    if not _SPLIT_NAME.fullmatch(split) or len(split) > 128:
        raise InvalidFileError(
            f"The dataset {safe_line(wanted.id)} has a split with the name"
            f" {safe_line(repr(split), limit=60)}.",
            "Choose one of its splits, as in hf:OWNER/NAME/SPLIT.",
            code="invalid_dataset_files",
        )
    return split


def _written(split: str, data: Any, place: Path, wanted: HubDataset, builder: Any) -> Path:
    """Return the Parquet file that holds `data`, written now if it is not there."""
    import pyarrow.parquet

    config = re.sub(r"[^A-Za-z0-9._-]", "_", builder.config.name)
    folder = place / wanted.id.replace("/", "--") / config / _state(data)
    path = folder / f"{split}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f".{split}.{os.getpid()}.partial"
    try:
        # As Arrow tables, so that nothing is decoded, and no file is opened that a row names.
        with pyarrow.parquet.ParquetWriter(partial, data.data.schema) as writer:
            for table in data.with_format("arrow").iter(_ROWS_AT_ONCE):
                writer.write_table(table)
        commit(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _state(data: Any) -> str:
    """Return a name for the cached files that `data` is made of."""
    files = [Path(item["filename"]) for item in data.cache_files]
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([stamps, data.num_rows]).encode()).hexdigest()[:16]


@contextmanager
def _errors(wanted: HubDataset) -> Iterator[None]:
    """Turn what `datasets` says within this block into errors for people."""
    from datasets import exceptions as told

    name = safe_line(wanted.id)
    try:
        yield
    except LlamaForgeError:
        raise
    except told.DatasetNotFoundError as error:
        raise _not_found(name, error) from error
    except (told.DataFilesNotFoundError, told.DatasetGenerationError) as error:
        raise InvalidFileError(
            f"The files of the dataset {name} cannot be read as rows ({_reason(error)}).",
            "Download its files and name those that can be: --data FILE",
            code="invalid_dataset_files",
        ) from error
    except ConnectionError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}
        raise HubError(
            f"The dataset {name} is not in the cache, and the Hub cannot be asked"
            + (": HF_HUB_OFFLINE forbids it." if offline else f" ({_reason(error)})."),
            "Unset HF_HUB_OFFLINE, or name files on this machine."
            if offline
            else "Check the network, HF_ENDPOINT and the proxy, then try again.",
            code="hub_offline",
        ) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise HubRefusedError(
            f"The dataset {name} brings a program of its own, which is not run.",
            "Choose another, or one of its branches that holds data files alone.",
            code="dataset_script",
        ) from error
    except ValueError as error:  # a configuration or a split that does not exist
        raise UsageError(
            f"{safe_line(wanted.text())} cannot be opened: {_reason(error, 400)}.",
            "Write hf:OWNER/NAME:CONFIG/SPLIT with names that it has.",
            code="invalid_dataset",
        ) from error
    except OSError as error:
        raise HubError(
            f"The dataset {name} could not be fetched: {_reason(error)}.",
            "Check the network and the free space on the disk, then try again.",
            code="dataset_failed",
        ) from error


def _not_found(name: str, error: Exception) -> LlamaForgeError:
    if "gated" in str(error):
        return HubRefusedError(
            f"The dataset {name} is gated: its owner decides who may read it.",
            "Ask for access on its page at the Hub, then log in with: hf auth login",
            code="gated_dataset",
        )
    return HubNotFoundError(
        f"The Hub has no dataset {name}, or it is private.",
        "Check the name; for a private one, log in with: hf auth login",
        code="no_dataset",
    )


def _reason(error: Exception, limit: int = 160) -> str:
    return safe_line(redact(str(error) or type(error).__name__), limit=limit).rstrip(".")


def main(arguments: list[str] | None = None) -> int:
    """Fetch what the command line names and write one line of JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llamaforge.worker.hub_dataset")
    parser.add_argument("dataset", help="hf:OWNER/NAME[:CONFIG][/SPLIT]")
    parser.add_argument("--folder", type=Path, help="where the files are kept")
    asked = parser.parse_args(arguments)
    answer: dict[str, Any]
    code = ExitCode.DONE
    try:
        answer = {"paths": [str(path) for path in materialise(asked.dataset, asked.folder)]}
    except LlamaForgeError as error:
        code = error.exit_code
        answer = {
            "error": {
                "message": error.message,
                "hint": error.hint,
                "code": error.code,
                "exit": int(code),
            }
        }
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
