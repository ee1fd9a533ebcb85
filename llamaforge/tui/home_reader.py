"""Looking around for the first screen: machine, runs, draft, models, server, in that order."""

from collections.abc import Iterator
from dataclasses import replace

from llamaforge.catalog.host import resolve_host
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.model import ModelStatus
from llamaforge.errors import LlamaForgeError
from llamaforge.tui.home import Home, ModelCount
from llamaforge.tui.run_list import RunList
from llamaforge.wizard.draft import kept_drafts
from llamaforge.wizard.facts import measured


class HomeReader:
    """What is slow is looked at once, the rest whenever it is asked for."""

    def __init__(self) -> None:
        self.home = Home()
        self._runs = RunList()
        self._forget = False

    def forget(self) -> None:
        """Look at the models and the server anew the next time."""
        self._forget = True

    def parts(self) -> Iterator[Home]:
        """Yield what is known, more and more of it; it may wait for the disk and the server."""
        if self._forget:
            self._forget = False
            self.home = replace(self.home, models=None, server=None)
        try:
            runs = self._runs.read()
        except OSError:
            runs = ()
        drafts = kept_drafts()
        self.home = replace(
            self.home,
            machine=measured(),
            runs=runs,
            draft=drafts[0] if drafts else None,
            other_drafts=tuple(drafts[1:]),
        )
        yield self.home
        if self.home.models is None:
            self.home = replace(self.home, models=_models())
            yield self.home
        if self.home.server is None:
            self.home = replace(self.home, server=_server())
            yield self.home


def _models() -> ModelCount:
    try:
        inventory = Inventory.open()
        models = list(inventory.models())
    except LlamaForgeError as error:
        return ModelCount(error=error)
    return ModelCount(
        len(models),
        sum(model.status is ModelStatus.READY for model in models),
        tuple(store.root for store in inventory.stores),
    )


def _server() -> str:
    from llamaforge.publishing.server import Limits, PublishingServer  # noqa: PLC0415 - slow

    limits = Limits(connect_seconds=1.0, answer_seconds=3.0, retry_pauses_seconds=())
    try:
        with PublishingServer(resolve_host(), limits) as server:
            return server.version().text
    except LlamaForgeError:
        return ""
