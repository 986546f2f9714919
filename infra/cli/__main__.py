"""The entry point of `foryou`: one line and an exit code for an error. The list of commands is in `infra.cli.app`.

Exit codes: 0 done; 1 a server, the data or a check failed; 2 wrong command, input or setting; 130 Ctrl-C.
"""

import logging
import signal
import sys


def main() -> None:
    """Run a command."""
    # Ctrl-C during imports ends the process without a traceback; see `infra.terminal.signals` for the time after
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.basicConfig(format="foryou: %(message)s")
    logging.getLogger("infra").setLevel(logging.ERROR)  # the error of a command is its last line, not a log line
    from infra.cli.app import app

    try:
        app(prog_name="foryou")
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        from infra.cli.extras import missing_extra

        line = missing_extra(error, sys.argv[1:])
        if line is None:
            raise
        sys.stderr.write(f"{line}\n")
        sys.exit(1)
    except Exception as error:
        from infra.cli.exit_codes import failure_of

        failure = failure_of(error)
        if failure is None:
            raise
        sys.stderr.write(f"foryou: {failure.message}\n")
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()
