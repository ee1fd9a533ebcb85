"""What the runs of most tests are: a dozen small steps on the built-in model."""

from collections.abc import Mapping
from pathlib import Path

import gguf

from llamaforge import paths
from tests.end_to_end.program import Program

STEPS = 12
SETTINGS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "lora_r": 8,
    "save_steps": 3,
    "eval_steps": 5,
    "fidelity_rows": 4,
    "max_rows": 4,
    "max_new_tokens": 8,
    "samples": 2,
}
EXACT = {"compute_dtype": "float32"}
"""For runs that are held against the one that everybody looks at."""
BRIEF = {"fidelity_rows": 1, "max_rows": 0}
"""For a run whose proof and answers are not looked at."""


def with_settings(words: list[str], settings: Mapping[str, object]) -> list[str]:
    """Return the command with each of the settings."""
    return words + [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def train_words(rows: Path, name: str, **settings: object) -> list[str]:
    """Return the command that trains the built-in model on `rows`."""
    words = ["train", "--store", str(paths.embedded_store()), "--model", "llamaforge-demo"]
    words += ["--data", str(rows), "--name", name, "--yes"]
    return with_settings(words, SETTINGS | settings)


def adapter_values(program: Program, name: str) -> dict[str, bytes]:
    """Return the adapter's tensors; its name is that of its run, so files differ."""
    reader = gguf.GGUFReader(program.directory(name).artifacts / "adapter.gguf")
    return {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}
