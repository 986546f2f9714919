import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.fork_server import ForkServer, Program
from infra.stack.processes import ChildDied, Children
from infra.stack.stack import IMPORTS
from tests.infra.waiting import eventually, is_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")

PACKAGES = {
    "shared_package": "print('imported once', flush=True)\nVALUE = 7\n",
    "other_package": "",
    "program": """
        import os, sys, time
        print(sys.argv[1:], os.environ["FROM_START"], "other_package" in sys.modules, flush=True)
        if "wait" in sys.argv:
            time.sleep(600)
        sys.exit(sys.modules["shared_package"].VALUE)
    """,
    "no_package": "raise SystemExit('this package cannot be imported')",
}


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    for name, text in PACKAGES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")
    with Children(tmp_path / "logs") as children:
        yield children


def program(name: str, *arguments: str, imports: list[str]) -> Program:
    return Program(name, "program", [*arguments], imports)


def log_of(children: Children, name: str) -> str:
    return (children.log_directory / f"{name}.log").read_text()


def test_a_program_runs_with_its_arguments_and_environment_and_only_with_the_imports_up_to_it(
    children: Children,
) -> None:
    programs = [
        program("first", "a", "b", imports=["shared_package"]),
        program("second", "c", imports=["other_package"]),
    ]
    server = ForkServer(children, programs, {})
    server.start({"FROM_START": "here"})
    started = server.wait(lambda: None)
    eventually(lambda: all(child.poll() is not None for child in started.values()))
    assert {name: child.poll() for name, child in started.items()} == {"first": 7, "second": 7}
    assert log_of(children, "first") == "['a', 'b'] here False\n"
    assert log_of(children, "second") == "['c'] here True\n"
    assert log_of(children, "fork-server") == "imported once\n"
    with pytest.raises(ChildDied, match="first ended with exit code 7"):
        children.check()


def test_a_program_is_a_child_of_this_process_with_a_session_and_a_name(children: Children) -> None:
    server = ForkServer(children, [program("sleeper", "wait", imports=["shared_package"])], {})
    server.start({"FROM_START": "here"})
    child = server.wait(lambda: None)["sleeper"]
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in status
    assert status.startswith("Name:\tsleeper\n")
    assert os.getsid(child.pid) == child.pid
    assert [each.name for each in children] == ["sleeper"]
    children.stop()
    assert child.poll() == -signal.SIGTERM


def test_a_package_that_cannot_be_imported_is_reported_with_the_log(children: Children) -> None:
    server = ForkServer(children, [program("never", imports=["no_package"])], {})
    server.start({})
    with pytest.raises(ChildDied, match=r"(?s)fork-server ended with exit code 1.*this package cannot be imported"):
        server.wait(lambda: None)
    server.close()


def test_a_server_that_is_closed_early_leaves_no_process(children: Children) -> None:
    programs = [program("sleeper", "wait", imports=["shared_package"]), program("never", imports=["no_package"])]
    server = ForkServer(children, programs, {})
    server.start({"FROM_START": "here"})
    eventually(lambda: "cannot be imported" in log_of(children, "fork-server"))
    eventually(lambda: (children.log_directory / "sleeper.log").exists())  # before, it ends with the server
    server.close()
    (sleeper,) = children
    children.stop()
    assert is_gone(sleeper.pid)


PARENT = """
import sys, time
from pathlib import Path
from infra.stack.fork_server import ForkServer, Program
from infra.stack.processes import Children
server = ForkServer(Children(Path(sys.argv[1])), [Program("sleeper", "program", ["wait"], ["shared_package"])], {})
server.start({"FROM_START": "here"})
print(server.wait(lambda: None)["sleeper"].pid, flush=True)
time.sleep(600)
"""


def test_a_program_ends_with_its_parent_even_if_that_is_killed(children: Children, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    eventually(lambda: is_gone(pid))


def test_the_imports_of_the_server_start_no_thread_of_python_and_no_device_of_jax() -> None:
    program = f"""
import threading
from importlib import import_module
for name in {[name for names in IMPORTS.values() for name in names]!r}:
    import_module(name)
from jax._src.xla_bridge import backends_are_initialized
print(threading.active_count(), backends_are_initialized())
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "1 False\n"
