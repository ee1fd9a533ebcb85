"""What a check of rows is asked for: the JSON between a screen and the process that looks."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from llamaforge.data.preview_request import require_sendable
from llamaforge.recipe.spec import DataChoice


class CheckRequest(BaseModel):
    """Rows to look through, and the model that is to learn from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataChoice
    model: str | None = None
    """Its name in the store; without one, lengths in tokens are left out."""
    store: Path | None = None
    """The store's folder; Ollama's own places without it."""
    chat_template: str | None = None
    """A known template's name or Jinja text, instead of the model's own."""
    keep: bool = False
    """Whether rows that can be trained on are frozen, as a run would freeze them."""
    row_seconds: float = 5.0
    """Seconds that rendering one row may take."""

    @model_validator(mode="after")
    def _can_be_sent(self) -> "CheckRequest":
        require_sendable(self)
        return self
