"""A screen that looks at something in a thread, and goes on once it was seen."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from textual.message import Message

from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.looking import Look

_Answer = TypeVar("_Answer")


class LookingScreen(ForgeScreen[_Answer], Generic[_Answer]):
    """Its facts follow its draft: what has to be looked at is looked at one after the other."""

    class Looked(Message):
        """Something was looked at."""

        def __init__(self, number: int, facts: Facts) -> None:
            super().__init__()
            self.number = number
            """Of the look."""
            self.facts = facts

    class Counted(Message):
        """More rows were read."""

        def __init__(self, number: int, words: str, rows: int) -> None:
            super().__init__()
            self.number = number
            self.words = words
            self.rows = rows

        def can_replace(self, message: Message) -> bool:
            """Only the newest number counts."""
            return isinstance(message, LookingScreen.Counted)

    def __init__(self, draft: Draft, facts: Facts) -> None:
        super().__init__()
        self.draft = draft
        self.facts = facts
        self._is_looking = False
        self._looks = 0
        """How often something was looked at: what came too late is told by it."""
        self._then: Callable[[], Awaitable[None]] | None = None

    def tell_state(self, text: str) -> None:
        """Show what is being done; empty where nothing is."""
        raise NotImplementedError

    def look(self, look: Look, then: Callable[[], Awaitable[None]]) -> None:
        """Look at something, and go on with `then` once it was seen."""
        self._is_looking, self._then = True, then
        self._looks += 1
        self.tell_state(f"{look.words} …")
        number, draft, facts = self._looks, self.draft, self.facts

        def count(what: str, rows: int) -> None:
            del what
            self.post_message(self.Counted(number, look.words, rows))

        def work() -> None:
            self.post_message(self.Looked(number, look.at(draft, facts, count)))

        self.work_in_thread(work, group="look")

    def look_no_more(self) -> None:
        """Forget what is being looked at: somebody went elsewhere."""
        self._is_looking = False

    @property
    def is_looking(self) -> bool:
        """Whether something is being looked at."""
        return self._is_looking

    def on_looking_screen_counted(self, message: Counted) -> None:
        """Say how many rows were read."""
        if message.number == self._looks and self._is_looking and message.rows:
            self.tell_state(f"{message.words} … {message.rows:,}")

    async def on_looking_screen_looked(self, message: Looked) -> None:
        """Go on with what was seen, unless somebody went elsewhere meanwhile."""
        if message.number != self._looks or not self._is_looking or self._then is None:
            return
        self._is_looking = False
        self.facts = message.facts
        self.refresh_bindings()
        await self._then()
