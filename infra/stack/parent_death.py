"""A script that ties a program to its parent, then execs the program.

`python parent_death.py PARENT_PID PROGRAM ARGUMENT…`. Linux kills the program once the parent is gone, even by SIGKILL.
Other systems have no such call: there the parent has to stop the program. Imports the standard library alone.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Let Linux kill this process once its parent is gone; exit with 1 if the parent is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        raise SystemExit(1)


def main() -> None:
    """Set the parent-death signal and exec."""
    program = sys.argv[2:]
    if sys.platform == "linux":
        die_with(int(sys.argv[1]))
    try:
        os.execvp(program[0], program)
    except OSError as error:
        raise SystemExit(f"{program[0]}: {error.strerror}") from None


if __name__ == "__main__":
    main()
