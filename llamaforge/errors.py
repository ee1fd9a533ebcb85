"""What went wrong, in words for the person at the terminal, and the exit code it means."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes that scripts may rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    INTERRUPTED = 130


class LlamaForgeError(Exception):
    """An expected failure: one sentence of what is wrong, one of what to do.

    `code` is a short stable word for scripts (it appears in `failed` events and in JSON).
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "", *, code: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class UsageError(LlamaForgeError):
    """The command line or a recipe asks for something that has no meaning."""

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, hint: str = "", *, code: str = "usage") -> None:
        super().__init__(message, hint, code=code)


class RefusedError(LlamaForgeError):
    """The job could not end well, so it was not begun."""

    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, hint: str = "", *, code: str = "refused") -> None:
        super().__init__(message, hint, code=code)


class NotFoundError(LlamaForgeError):
    """A model, a run or a file that was named does not exist."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, message: str, hint: str = "", *, code: str = "not_found") -> None:
        super().__init__(message, hint, code=code)


class InvalidFileError(RefusedError):
    """A file's content is not what its place or its name promises."""

    def __init__(self, message: str, hint: str = "", *, code: str = "invalid_file") -> None:
        super().__init__(message, hint, code=code)
