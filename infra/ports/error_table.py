"""The table of errors: the one place that decides the reaction of a process to an error of a server or a value."""

from enum import Enum


class Reaction(Enum):
    """The reaction of a process to an error."""

    WAIT = "wait"
    """Retry without limit: an outage, which the process logs once and counts."""

    SKIP = "skip"
    """Set one input or one key aside, log and count it, and continue."""

    END = "end"
    """End the process with a non-zero exit code: a retry cannot help."""
