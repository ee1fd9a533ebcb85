"""What a preview is asked for: the JSON between a screen and the process that renders."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from llamaforge.data.chat import TrainOn
from llamaforge.data.preview import MOST_TOKENS
from llamaforge.data.records import Message
from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line

MOST_REQUEST_BYTES: Final = 64 * 1024 * 1024
MOST_ROWS: Final = 1000


class PreviewRequest(BaseModel):
    """Rows to render with a model's own template and tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, max_length=1000)
    """The model's name in the store."""
    store: str | None = None
    """The store's folder; Ollama's own places without it."""
    conversations: tuple[tuple[Message, ...], ...] = Field(default=(), max_length=MOST_ROWS)
    """Rows that the asker has read already."""
    data: str | None = None
    """A data file to take rows from."""
    rows: tuple[int, ...] = Field(default=(), max_length=MOST_ROWS)
    """Their 1-based numbers in it."""
    positions: tuple[int, ...] = Field(default=(), max_length=MOST_ROWS)
    """The same by their places among the rows of the file, from 1 on, where these are not known
    by number: a table begins with a line of names, and lines may be empty."""
    map: str | None = None
    """What the columns of the data file are, as `data.mapping.Mapping` reads it."""
    preference: Literal["refuse", "chosen"] = "chosen"
    images: Literal["refuse", "drop", "link"] = "refuse"
    max_length: int = Field(default=2048, ge=1)
    """Tokens a row may have; the model's context is the most."""
    chat_template: str | None = None
    """A known template's name or Jinja text, instead of the model's own."""
    train_on: TrainOn = "all"
    today: str | None = None
    """The date that a template may show, in ISO 8601; today without it."""
    compare: bool = False
    """Whether to compare the template with that of Ollama's layer too."""
    row_seconds: float = Field(default=5.0, gt=0, le=60)
    """Seconds that one row may take."""
    most_tokens: int = Field(default=MOST_TOKENS, ge=1, le=1_000_000)
    """Tokens shown of one row."""

    @model_validator(mode="after")
    def _can_be_sent(self) -> "PreviewRequest":
        require_sendable(self)
        return self


def require_sendable(request: BaseModel) -> None:
    """Check that a request can be sent as JSON: names of files may hold any bytes.

    Raises:
        ValueError: a text in it is not Unicode.
    """
    try:
        request.model_dump_json()
    except PydanticSerializationError:
        raise ValueError("a name holds bytes that are not UTF-8") from None


def read_request(body: bytes) -> PreviewRequest:
    """Return the request in `body`.

    Raises:
        UsageError: it is too large, not JSON, or not of this shape.
    """
    if len(body) > MOST_REQUEST_BYTES:
        raise UsageError(
            f"The rows to preview have more than {MOST_REQUEST_BYTES:,} bytes.",
            "Ask for fewer rows at a time.",
            code="preview_request",
        )
    try:
        return PreviewRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise UsageError(
            f"The preview was asked for wrongly: {safe_line(where, limit=60)}:"
            f" {safe_line(first['msg'], limit=120)}.",
            "Check the row numbers and the settings.",
            code="preview_request",
        ) from None
