"""What is known of the terminal itself."""

import select


def has_hung_up(terminal: int) -> bool:
    """Return whether nobody is at the other end of the file descriptor `terminal` any more.

    Where the system cannot say it of a terminal, it is taken to be there.
    """
    try:
        watch = select.poll()
        watch.register(terminal, 0)  # hang-ups are told unasked
        return any(told & (select.POLLHUP | select.POLLERR) for _, told in watch.poll(0))
    except (OSError, ValueError, AttributeError):
        return False
