import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.processes import ChildDied, Children
from tests.infra.waiting import eventually, is_gone

SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)",
]


def test_a_child_runs_until_it_is_stopped(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("sleeper", SLEEPER)
        eventually(lambda: "here" in child.tail())
        children.check()
    assert is_gone(child.pid)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    children = Children(tmp_path)
    child = children.start("stubborn", STUBBORN)
    eventually(lambda: "here" in child.tail())
    children.stop(grace_s=0.1)
    assert child.poll() == -signal.SIGKILL


def test_the_processes_that_a_child_started_end_with_it(tmp_path: Path) -> None:
    program = f"import subprocess, sys; p = subprocess.Popen({SLEEPER!r}); print(p.pid, flush=True); p.wait()"
    with Children(tmp_path) as children:
        child = children.start("family", [sys.executable, "-c", program])
        eventually(lambda: "here" in child.tail())
        grandchild = next(int(word) for word in child.tail().split() if word.isdigit())
    eventually(lambda: is_gone(grandchild))


def test_a_child_that_dies_is_reported_with_its_exit_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("singer", [sys.executable, "-c", "print('the last line'); raise SystemExit(7)"])
        eventually(lambda: child.poll() is not None)
        with pytest.raises(ChildDied, match=r"(?s)singer ended with exit code 7.*the last line"):
            children.check()


def test_a_program_that_does_not_exist_is_reported_by_name(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("nothing", ["/no/such/program"])
        eventually(lambda: child.poll() is not None)
        with pytest.raises(ChildDied, match="/no/such/program: No such file"):
            children.check()


def test_the_environment_is_added_to_that_of_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_PARENT", "one")
    program = "import os; print(os.environ['FROM_PARENT'], os.environ['FROM_CALL'])"
    with Children(tmp_path) as children:
        child = children.start("environment", [sys.executable, "-c", program], {"FROM_CALL": "two"})
        eventually(lambda: child.poll() is not None)
        assert child.tail() == "one two"


def test_only_the_end_of_a_long_log_is_reported(tmp_path: Path) -> None:
    program = "for i in range(100_000): print('line', i)"
    with Children(tmp_path) as children:
        child = children.start("talker", [sys.executable, "-c", program])
        eventually(lambda: child.poll() is not None)
        assert child.tail().splitlines()[-1] == "line 99999"
        assert len(child.tail().splitlines()) == 12


PARENT = """
import sys, time
from pathlib import Path
from infra.stack.processes import Children
children = Children(Path(sys.argv[1]))
child = children.start("sleeper", [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"])
while "here" not in child.tail():
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal for the death of a parent")
def test_no_child_outlives_its_killed_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not is_gone(child)
        os.kill(parent.pid, signal.SIGKILL)
    eventually(lambda: is_gone(child))
