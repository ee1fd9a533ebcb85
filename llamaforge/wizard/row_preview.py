"""A row of the draft as the model sees it: every token, and which of them are learned."""

from typing import Any, Final

from llamaforge.data.preview_request import PreviewRequest
from llamaforge.data.row_refs import whole_conversation
from llamaforge.data.snapshot import record_at
from llamaforge.errors import LlamaForgeError, NotFoundError
from llamaforge.runs.previews import PreviewAnswer, ask
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.row_files import RowFiles, map_for

NO_ROW: Final = "no_row"
"""The code of asking for a row behind the last one."""
_OF_ROWS: Final = ("max_length", "chat_template", "train_on", "images")
"""Settings on which it depends what the model sees of a row."""


def token_row(draft: Draft, files: RowFiles, file: int, place: int) -> PreviewAnswer:
    """Return a row as tokens.

    Args:
        draft: says the model, and how rows are read.
        files: what the draft's sources stand for.
        file: which of them, from 0.
        place: the row's place in it, from 1; broken rows have theirs too.

    Raises:
        NotFoundError: there is no such row (`no_row`), or there are no files.
        LlamaForgeError: it cannot be rendered; see `runs.previews.ask`.
    """
    if not files.paths:
        raise NotFoundError(files.problem or "There are no rows.", "Name files with rows.")
    path = files.paths[file]
    what: dict[str, Any] = {}
    if draft.snapshot:
        record = record_at(path, place)
        if record is None:
            raise NotFoundError("There is no such row.", "Ask for one before it.", code=NO_ROW)
        what["conversations"] = (whole_conversation(record),)
    else:
        what["data"], what["positions"] = str(path), (place,)
        what["map"] = map_for(draft, files, file)
    settings = {key: value for key in _OF_ROWS if (value := draft.setting(key)) is not None}
    try:
        request = PreviewRequest(
            model=draft.model,
            store=draft.store or None,
            **what,
            **settings,
        )
    except ValueError as error:
        raise LlamaForgeError("The file's name cannot be passed on.", "Rename it.") from error
    return ask(request)
