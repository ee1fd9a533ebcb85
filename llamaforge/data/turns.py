"""The messages of one row: roles get one name, contents become text, choices are followed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llamaforge.data.images import (
    Images,
    address_of,
    refusal,
    row_images,
    with_links,
    without_placeholders,
)
from llamaforge.data.json_row import kind, parse_object
from llamaforge.data.privacy import masked_line
from llamaforge.data.records import ROLES, Message, RowError
from llamaforge.data.repairs import Mender
from llamaforge.data.tool_calls import CALLING_ROLES, calls_in, calls_in_text
from llamaforge.safe_text import safe_line

Fields = Mapping[str, Any]

_MEDIA: Final = ("audio", "video", "file")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_ENOUGH_KEYS: Final = 12


@dataclass(frozen=True, slots=True)
class TurnChoices:
    """What a person chose about the messages of rows."""

    images: Images = "refuse"
    roles: Mapping[str, str] = field(default_factory=dict)
    """Names of roles, in lower case, beside or instead of those of `records.ROLES`."""
    role_key: str | None = None
    """The key of a message's role; None for `role`, else `from`."""
    content_key: str | None = None
    """The key of a message's content; None for `content`, else `value`."""


def key_list(keys: Iterable[str]) -> str:
    """Return `keys` for a message: at most twelve, each safe and short."""
    every = list(keys)
    if not every:
        return "no keys"
    shown = ", ".join(masked_line(key, limit=40) for key in every[:_ENOUGH_KEYS])
    more = f" and {len(every) - _ENOUGH_KEYS} more" if len(every) > _ENOUGH_KEYS else ""
    return f"the key{'s' if len(every) > 1 else ''} {shown}{more}"


class TurnReader:
    """Reads the messages of one row, in the order in which they follow each other."""

    def __init__(self, fields: Fields, choices: TurnChoices, mender: Mender) -> None:
        """Look at the row's own images.

        Raises:
            RowError: it has some, and they are not wanted or have no address to keep.
        """
        self._choices = choices
        self._roles: Mapping[str, str] = {**ROLES, **choices.roles} if choices.roles else ROLES
        self._mender = mender
        self._has_images = bool(row_images(fields))
        self._links = self._row_links(fields)

    def question(self, text: str) -> Message:
        """Return `text` as what a user says."""
        return Message("user", self._marked(text))

    def turns(self, value: object, key: str) -> list[Message]:
        """Return the list of messages `value`, which stands at `key`.

        Raises:
            RowError: it is not one.
        """
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            value = self._parsed(value, key)
        if not isinstance(value, list):
            raise RowError(f"{key} is {kind(value)}, not a list of messages")
        return [self.turn(turn, f"message {number}") for number, turn in enumerate(value, start=1)]

    def turn(self, turn: object, where: str) -> Message:
        """Return one message, written as `role` and `content` or as `from` and `value`.

        Raises:
            RowError: it is none, or its role, its content or what it calls cannot be used.
        """
        if not isinstance(turn, dict):
            raise RowError(f"{where} is {kind(turn)}, not an object")
        role_key, content_key = self._keys(turn)
        if role_key not in turn:
            raise RowError(f"{where} has no {_named(role_key, 'role')}: {key_list(turn)}")
        calls = calls_in(turn, where)
        if content_key not in turn and not calls:
            raise RowError(f"{where} has no {safe_line(content_key, limit=40)}")
        role = self._role(turn[role_key], where)
        if calls and turn.get(content_key) is None:
            content = ""
        else:
            content = self._content(turn[content_key], where)
        if not calls and _is_call(turn[role_key]):
            content, calls = "", calls_in_text(content, where)
        if calls and role != "assistant":
            raise RowError(f"{where} calls a tool, and is not an answer")
        return Message(
            role,
            self._marked(content),
            _is_trained(turn, role, where),
            calls,
            *(_short(turn, key) if role == "tool" else "" for key in ("name", "tool_call_id")),
        )

    def links_left(self) -> Iterator[str]:
        """Yield the addresses of the row's images that no text has a mark for."""
        yield from self._links

    def _keys(self, turn: Fields) -> tuple[str, str]:
        usual = ("role", "content") if "role" in turn else ("from", "value")
        return self._choices.role_key or usual[0], self._choices.content_key or usual[1]

    def _parsed(self, text: str, key: str) -> object:
        """Return JSON that stands in a text, as in the cells of a table; strict as rows are."""
        try:
            found = parse_object(b'{"list":' + text.encode("utf-8", "surrogatepass") + b"}")
        except RowError as error:
            raise RowError(f"{key} is a text that is not JSON: {error}") from None
        if len(found) != 1:  # the text closed the bracket around it
            raise RowError(f"{key} is a text that is not JSON")
        self._mender.note("json_text")
        return found["list"]

    def _role(self, role: object, where: str) -> str:
        if not isinstance(role, str):
            raise RowError(f"the role of {where} is {kind(role)}, not a text")
        name = role.strip().lower()
        known = self._roles.get(name)
        if known is None:
            raise RowError(f"{where} has the unknown role {masked_line(repr(role), limit=40)}")
        if name != role:
            self._mender.note("role_spelling")
        return known

    def _content(self, content: object, where: str) -> str:
        """Return a message's text; text parts are joined by line breaks."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise RowError(f"the content of {where} is {kind(content)}, not a text")
        parts = (self._part(part, where) for part in content)
        return "\n".join(part for part in parts if part is not None)

    def _part(self, part: object, where: str) -> str | None:
        """Return the text of a part; None where it is left out."""
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            raise RowError(f"a part of {where} is {kind(part)}, not a text")
        type_ = part.get("type", "text")
        lower = type_.lower() if isinstance(type_, str) else ""
        if "image" in lower or any(part.get(key) is not None for key in ("image", "image_url")):
            return self._image(part, where)
        for medium in _MEDIA:
            if part.get(medium) is not None or medium in lower:
                raise RowError(
                    f"{where} holds a part of type {medium}, which a text model cannot learn from"
                )
        if type_ not in _TEXT_PARTS:
            shown = masked_line(repr(type_), limit=40)
            raise RowError(f"{where} holds a part of unknown type {shown}")
        if not isinstance(part.get("text"), str):
            raise RowError(f"a text part of {where} has no text")
        return str(part["text"])

    def _image(self, part: Fields, where: str) -> str | None:
        if self._choices.images == "refuse":
            raise refusal(where)
        if self._choices.images == "drop":
            self._mender.note("images_dropped")
            return None
        image = next((part[key] for key in ("image_url", "image") if part.get(key)), part)
        address = address_of(image, where)
        self._mender.note("images_linked")
        return address

    def _row_links(self, fields: Fields) -> Iterator[str]:
        if not self._has_images:
            return iter(())
        if self._choices.images == "refuse":
            raise refusal("the row")
        if self._choices.images == "drop":
            self._mender.note("images_dropped")
            return iter(())
        self._mender.note("images_linked")
        return iter([address_of(image, "the row") for image in row_images(fields)])

    def _marked(self, text: str) -> str:
        """Return `text` with the marks of the row's images resolved."""
        if not self._has_images:  # then such a mark is only text
            return text
        if self._choices.images == "link":
            return with_links(text, self._links)
        return without_placeholders(text)


def _is_call(role: str) -> bool:
    return role.strip().lower() in CALLING_ROLES


def _short(turn: Fields, key: str) -> str:
    value = turn.get(key)
    return value if isinstance(value, str) else ""


def _named(key: str, usual: str) -> str:
    return usual if key in {"role", "from"} else safe_line(key, limit=40)


def _is_trained(turn: Fields, role: str, where: str) -> bool:
    """Return whether a message is to be learned: OpenAI's files give some a weight of 0."""
    weight = turn.get("weight")
    if weight is None:
        return True
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError(f"{where} has a weight that is neither 0 nor 1")
    return weight == 1 or role != "assistant"
