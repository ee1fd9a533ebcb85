"""A store with a quantised model, and its full-precision base in a Hub cache of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.export.hugging_face import write_hugging_face
from llamaforge.export.merged import Provenance, write_merged
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.worker.layout import model_layout
from tests.unit.catalog.store_builder import StoreBuilder
from tests.unit.hub.cache_builder import RepoBuilder

REPO = "acme/tiny-instruct"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "tiny:q4"


@dataclass(frozen=True)
class BaseDesk:
    """Where everything lies."""

    store: Path
    blob: Path
    folder: Path
    """The base as a folder of files."""
    cache: Path
    """`HF_HUB_CACHE` with the same as `REPO`."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Return what `lay_out` made in `folder`."""
        blob = Store.open(folder / "store").find(MODEL).blob
        assert blob is not None
        return cls(folder / "store", blob, folder / "base", folder / "cache")


def lay_out(folder: Path, quantization: str = "Q4_0") -> None:
    """Unpack the built-in model as the base, and pack that again as what Ollama would serve."""
    stored = Store.open(paths.embedded_store()).find("llamaforge-demo")
    assert stored.blob is not None
    header = read_header(stored.blob)
    template = GgufTokenizer(header).chat_template or ""
    base = folder / "base"
    write_hugging_face(
        base, header, None, model_layout(header), dtype="float32", chat_template=template
    )
    about = Provenance("tiny", "none", "llamaforge-demo", "sha256:0", "test")
    packed = write_merged(folder / "tiny.gguf", header, None, about, quantization=quantization)
    builder = StoreBuilder(folder / "store")
    layers = [("template", (stored.template or "").encode())]
    builder.add(MODEL, packed.path.read_bytes(), layers=layers)
    files = {file.name: file.read_bytes() for file in base.iterdir()}
    RepoBuilder(folder / "cache", REPO).commit(COMMIT, files, ref="main")
