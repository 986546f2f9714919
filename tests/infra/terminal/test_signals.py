import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys
from infra.terminal.signals import check, unwinding

class Closing:
    def __del__(self):
        {statement}

with unwinding():
    Closing()
    check()
"""


def run(statement: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM.format(statement=statement)], capture_output=True, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_code_that_ignores_exceptions_ends_the_process_without_output(
    number: signal.Signals,
) -> None:
    done = run(f"signal.raise_signal({int(number)})")
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_another_exception_that_is_ignored_is_still_printed() -> None:
    done = run("raise SystemExit(3)")
    assert done.returncode == 0
    assert "SystemExit: 3" in done.stderr


def test_a_library_that_turns_the_exception_of_a_signal_into_a_system_error_does_not_hide_it() -> None:
    lines = [
        "import signal",
        "from infra.terminal.signals import unwinding",
        "with unwinding():",
        "    try:",
        "        signal.raise_signal(signal.SIGTERM)",
        "    except SystemExit as ended:",
        "        raise SystemError('returned a result with an exception set') from ended",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
