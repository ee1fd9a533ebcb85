"""Ending a process at its n-th change of the disk, as a power cut or a `kill -9` there would."""

import os
import sys
from typing import Final

_CHANGES: Final = frozenset(
    {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod"}
)
"""Audit events of Python for what changes names or begins to write. `open` is reading too: more
points than needed do no harm."""


def end_at_operation(number: int, *, under: str = "") -> None:
    """Let this process end at the `number`-th time that it opens, renames, removes or syncs a file.

    With `under`, only files whose path contains that count, and every sync.
    """
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(9)

    def on_audit(name: str, arguments: tuple[object, ...]) -> None:
        if name in _CHANGES and (not under or any(under in str(item) for item in arguments[:2])):
            count()

    sync = os.fsync

    def counted(handle: int) -> None:
        count()
        sync(handle)

    os.fsync = counted  # type: ignore[assignment]
    sys.addaudithook(on_audit)
