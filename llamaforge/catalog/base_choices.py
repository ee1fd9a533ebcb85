"""The bases that a person named: kept by the blob they belong to."""

import json
from pathlib import Path
from typing import Final

from llamaforge import paths
from llamaforge.catalog.base_map import is_repo
from llamaforge.catalog.model import StoredModel
from llamaforge.errors import InvalidFileError, UsageError
from llamaforge.files import write_json
from llamaforge.safe_text import safe_line

_FILE: Final = "bases.json"
_MAX_BYTES: Final = 4 * 1024 * 1024
_CONFIG: Final = "config.json"


def remember_base(model: StoredModel, chosen: str) -> str:
    """Keep that `model` was made from `chosen`, and return that as it is kept.

    Args:
        model: a model with a blob.
        chosen: a repository, `owner/name`, its address on the Hub, or a folder with `config.json`.

    Raises:
        UsageError: it is none of these, or the model has no blob.
        InvalidFileError: what was kept before cannot be read.
    """
    if not model.blob_digest:
        raise UsageError(
            f"{safe_line(model.name)} has no weights here, so nothing can be made of its base.",
            "Choose a model that is ready: llamaforge models",
            code="no_blob",
        )
    base = checked_base(chosen)
    choices = _read()
    choices[model.blob_digest] = base
    write_json(_place(), choices)
    return base


def forget_base(model: StoredModel) -> bool:
    """Forget what was said of the base of `model`; return whether anything was.

    Raises:
        InvalidFileError: what was kept before cannot be read.
    """
    choices = _read()
    if choices.pop(model.blob_digest, None) is None:
        return False
    write_json(_place(), choices)
    return True


def remembered_bases() -> dict[str, str]:
    """Return the bases that were named, by blob digest.

    Raises:
        InvalidFileError: the file cannot be read.
    """
    return _read()


def checked_base(chosen: str) -> str:
    """Return what a person typed as a base: `owner/name`, or the whole path of a folder.

    Raises:
        UsageError: it is neither (`bad_base`).
    """
    text = chosen.strip()
    for start in ("https://huggingface.co/", "https://hf.co/", "hf.co/", "huggingface.co/"):
        text = text.removeprefix(start)
    text = text.strip("/") if is_repo(text.strip("/")) else text
    if is_repo(text):
        return text
    folder = Path(chosen.strip()).expanduser()
    try:
        if (folder / _CONFIG).is_file():
            return str(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        pass
    raise UsageError(
        f"{safe_line(chosen, limit=80)!r} is no repository and no folder of a model.",
        f"Write it as OWNER/NAME, or name a folder that holds a {_CONFIG}.",
        code="bad_base",
    )


def _place() -> Path:
    return paths.home() / _FILE


def _read() -> dict[str, str]:
    path = _place()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from error
    try:
        body = json.loads(data) if len(data) <= _MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _refuse(path, "is not JSON") from error
    if not isinstance(body, dict) or not all(isinstance(base, str) for base in body.values()):
        raise _refuse(path, "holds something else than bases")
    return dict(body)


def _refuse(path: Path, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The file {safe_line(str(path))} {what}.",
        "Mend or remove it; then name the bases again.",
        code="bad_base_choices",
    )
