"""Whether there still is a terminal."""

import os
import pty

from llamaforge.tui.terminal import has_hung_up


def test_a_terminal_without_its_other_end_has_hung_up() -> None:
    master, slave = pty.openpty()
    assert not has_hung_up(slave)
    os.write(slave, b"nobody reads this")
    assert not has_hung_up(slave)
    os.close(master)
    assert has_hung_up(slave)
    os.close(slave)
    assert not has_hung_up(slave), "what cannot be asked is taken to be there"
