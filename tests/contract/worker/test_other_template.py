"""A person is told where Ollama would serve other prompts than a run trains on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.worker import prepare
from tests.unit.catalog.store_builder import StoreBuilder

OWN = "{{ '<|im_start|>' + messages[0].content }}"
GIVEN = "{{ '<|begin|>' + messages[0].content }}"
GO = b"<|im_start|>{{ .Prompt }}"


def warnings(
    root: Path, *, used: str, layers: list[tuple[str, bytes]], config: dict[str, Any]
) -> list[str]:
    """Return the codes of what a run is told that is rendered with the template `used`."""
    blob = Store.open(paths.embedded_store()).find("llamaforge-demo").blob
    assert blob is not None
    builder = StoreBuilder(root)
    builder.add("m:x", blob.read_bytes(), layers=layers, config=config)
    told: list[str] = []
    job: Any = SimpleNamespace(
        spec=SimpleNamespace(model=SimpleNamespace(store=builder.root, name="m:x")),
        warn=lambda code, message: told.append(code),
    )
    conversations: Any = SimpleNamespace(
        renderer=SimpleNamespace(
            opening_tokens=lambda messages: {"<|begin|>" if used == GIVEN else "<|im_start|>"},
            template=SimpleNamespace(text=used),
        ),
        tokenizer=SimpleNamespace(chat_template=OWN),
        rows=SimpleNamespace(
            train=[SimpleNamespace(messages=())],
        ),
    )
    prepare._warn_of_other_template(job, conversations)
    return told


@pytest.mark.parametrize(
    ("layers", "config"),
    [([("template", GO)], {}), ([], {}), ([], {"renderer": "qwen3"})],
    ids=["Go", "the file's", "a renderer"],
)
def test_a_template_that_a_person_gave_is_held_against_what_serves(
    layers: list[tuple[str, bytes]], config: dict[str, Any], tmp_path: Path
) -> None:
    assert warnings(tmp_path / "a", used=OWN, layers=layers, config=config) == []
    assert warnings(tmp_path / "b", used=GIVEN, layers=layers, config=config) == ["other_template"]
