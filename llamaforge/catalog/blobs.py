"""The store's blobs folder: from a digest to a file that is whole and inside the store."""

from pathlib import Path

from llamaforge.catalog.bounded import file_inside
from llamaforge.catalog.manifest import Layer
from llamaforge.catalog.names import parse_digest
from llamaforge.errors import InvalidFileError, NotFoundError

_FORMS = ("sha256-", "sha256:")
"""How blobs are named; old stores have the colon."""


def short_digest(digest: str) -> str:
    """Return the beginning of a digest, as Ollama shows it."""
    return digest[:12]


class Blobs:
    """The blobs folder of one store. The folder itself may be a link to another disk."""

    def __init__(self, root: Path) -> None:
        # strict=False: a store without blobs has no such folder, and then nothing is inside it.
        self.folder = (root / "blobs").resolve()

    def path(self, digest: str, what: str = "the blob") -> Path:
        """Return the file of the blob whose digest has these 64 hexadecimal digits.

        Raises:
            NotFoundError: it is not there (`missing_blob`), or its download has not ended
                (`partial_blob`), or it cannot be read.
            InvalidFileError: `digest` is no digest, or the file lies outside the store.
        """
        digest = parse_digest(f"sha256:{digest}")
        shown = f"{what} {short_digest(digest)}"
        for form in _FORMS:
            try:
                return file_inside(self.folder, self.folder / f"{form}{digest}", shown)
            except NotFoundError as error:
                if error.code != "missing_file":
                    raise
        if self._has_part(digest):
            raise NotFoundError(
                f"the download of {shown} has not ended.",
                "Pull the model again: the download goes on where it stopped.",
                code="partial_blob",
            )
        raise NotFoundError(
            f"{shown} is missing from the store.",
            "Pull the model again: only what is missing is downloaded.",
            code="missing_blob",
        )

    def of_layer(self, layer: Layer, what: str) -> Path:
        """Return the file of `layer`, which has the size that the manifest gives.

        Raises:
            NotFoundError, InvalidFileError: as `path`; `truncated_blob` where the size differs.
        """
        path = self.path(layer.digest, what)
        try:
            size = path.stat().st_size
        except OSError as error:  # removed since `path` looked
            raise NotFoundError(
                f"{what} {short_digest(layer.digest)} is missing from the store.",
                "Pull the model again: only what is missing is downloaded.",
                code="missing_blob",
            ) from error
        if size != layer.size:
            raise InvalidFileError(
                f"{what} {short_digest(layer.digest)} has {size:,} bytes where the manifest says "
                f"{layer.size:,}: it is {'cut short' if size < layer.size else 'damaged'}.",
                "Remove the model with ollama rm and pull it again.",
                code="truncated_blob",
            )
        return path

    def _has_part(self, digest: str) -> bool:
        """Return whether a download left a part: the whole's sparse file, or its first piece."""
        return any(
            (self.folder / f"{form}{digest}{ending}").exists()
            for form in _FORMS
            for ending in ("-partial", "-partial-0")
        )
