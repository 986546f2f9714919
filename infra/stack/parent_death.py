"""Run as a script between a parent and the program it starts: ties the program's life to the parent's, then becomes it.

`python child.py PARENT_PID PROGRAM ARGUMENT…`. Linux kills the program once the parent is gone, even by SIGKILL. Where
there is no such call, the parent's own clean-up has to do. Needs the standard library alone, and no thread is forked.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the parent-death signal and exec."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            raise SystemExit(1)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        raise SystemExit(f"{program[0]}: {error.strerror}") from None


if __name__ == "__main__":
    main()
