"""The root of all exceptions that a user can meet: each has a text of one line and an exit code."""

from typing import ClassVar


class ForYouError(Exception):
    """A server or the data is in the way; the text is one line with the place, the reason and the remedy.

    Attributes:
        exit_code: exit code of a command that ends with this error.

    """

    exit_code: ClassVar[int] = 1


class UsageError(ForYouError):
    """The command, a setting or an input is wrong."""

    exit_code: ClassVar[int] = 2


class StateUnreadable(ForYouError, RuntimeError):
    """Stored state cannot be read; the text names the state, its place and the reason."""
