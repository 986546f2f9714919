"""The process's edge of `foryou`: signals, exit codes, and one line for a user's mistake. Commands: `infra.commands`.

Exit codes: 0 done, 1 a server or the data is in the way, 2 the command or a setting is wrong, 130 Ctrl-C.
"""

import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_EXIT_S = 10
"""After this an exit that hangs is cut short; the children of the process die with it."""


def main() -> None:
    """Run a command."""
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        from infra.commands import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from infra.mistakes import exit_code

        code = exit_code(error)
        if code is None:
            raise
        sys.stderr.write(f"foryou: {error}\n")
        sys.exit(code)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Unwind once: a second signal would only interrupt the cleaning up, which takes a few seconds at most."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.alarm(LONGEST_EXIT_S)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
