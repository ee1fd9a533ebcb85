"""The answers with which the built-in toy model learns from the built-in rows."""

from typing import Final

from llamaforge import paths
from llamaforge.wizard.draft import Draft

DEMO_MODEL: Final = "llamaforge-demo"
DEMO_SETTINGS: Final = {
    "learning_rate": 2e-3,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "lora_r": 16,
    "lora_alpha": 32,
    "evaluation.max_rows": 200,
    "evaluation.max_new_tokens": 48,
}
"""A model of a few million weights takes a higher rate than those that people use."""


def demo_draft() -> Draft:
    """Return the draft of the demo; its rows say themselves which of them are for testing."""
    return Draft(
        model=DEMO_MODEL,
        store=str(paths.embedded_store()),
        base="gguf",
        sources=(str(paths.embedded_data()),),
        held_out="0.1",
        goal="extract",
        preset="balanced",
        settings={key: str(value) for key, value in DEMO_SETTINGS.items()},
    )
