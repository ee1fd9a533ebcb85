"""A row of the draft as the model sees it: every token, and which of them are learned."""

from llamaforge.data.preview_request import PreviewRequest
from llamaforge.errors import LlamaForgeError, NotFoundError
from llamaforge.runs.previews import PreviewAnswer, ask
from llamaforge.wizard.columns import first_file
from llamaforge.wizard.draft import Draft


def token_row(draft: Draft, row: int) -> PreviewAnswer:
    """Return the row with the 1-based number `row` of the draft's first file, as tokens.

    Raises:
        NotFoundError: there is no such row, or no file on this machine.
        LlamaForgeError: it cannot be rendered; see `runs.previews.ask`.
    """
    path = first_file(draft)
    if path is None:
        raise NotFoundError(
            "Datasets of the Hub are shown only once they were fetched.",
            "Name a file to see its rows.",
            code="no_file",
        )
    try:
        request = PreviewRequest(
            model=draft.model,
            store=draft.store or None,
            data=str(path),
            rows=(row,),
            map=draft.map or None,
        )
    except ValueError as error:
        raise LlamaForgeError("The file's name cannot be passed on.", "Rename it.") from error
    return ask(request)
