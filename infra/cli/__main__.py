"""The process's edge of `foryou`: exit codes, and one line for a user's mistake. Commands: `infra.cli.commands`.

Exit codes: 0 done, 1 a server or the data is in the way, 2 the command or a setting is wrong, 130 Ctrl-C.
"""

import logging
import signal
import sys


def main() -> None:
    """Run a command."""
    # while modules load there is nothing to clean up, and no traceback to show; see `infra.terminal.signals`
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.basicConfig(format="foryou: %(message)s")
    logging.getLogger("infra").setLevel(logging.ERROR)  # a command that asks once tells itself that it failed
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
        from infra.cli.exit_codes import exit_code

        code = exit_code(error)
        if code is None:
            raise
        sys.stderr.write(f"foryou: {error}\n")
        sys.exit(code)


if __name__ == "__main__":
    main()
