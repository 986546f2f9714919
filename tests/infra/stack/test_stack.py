import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.ports.settings import load
from infra.stack import stack as stack_module
from infra.stack.embedded import EmbeddedError
from infra.stack.processes import ChildDied
from infra.stack.stack import NotReady, Stack, scratch_directory
from tests.infra.waiting import MARK, eventually, marked

pytestmark = pytest.mark.embedded

WORKERS = {
    "worker_that_is_ready": """
import json, os, time, redis
from infra.ports.settings import load
ready = {"ready_at": 1, "said_at": time.time_ns() // 1_000_000, "pid": os.getpid(), "model_version": "none"}
redis.Redis.from_url(load().redis).hset("foryou:ready", "me", json.dumps(ready))
time.sleep(600)
""",
    "worker_that_never_is": "import time; time.sleep(600)",
    "worker_that_dies": "raise SystemExit('no model of that name')",
}
UP = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
import infra.stack.stack
infra.stack.stack.FLOW_GROUPS = {}
infra.stack.stack.WORKER = "worker_that_never_is"
import infra.cli.app
from infra.stack.embedded import _free_port
sys.argv = ["foryou", "up", "--kafka-port", str(_free_port()), "--redis-port", str(_free_port())]
from infra.cli.__main__ import main
main()
"""


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand-ins for the worker, in place of the flows and a model that has to be compiled; returns a mark on them."""
    for name, program in WORKERS.items():
        (tmp_path / f"{name}.py").write_text(program)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setattr(stack_module, "FLOW_GROUPS", {})
    return mark


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where scratch directories are made."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield directory
    shutil.rmtree(directory)


def test_a_stack_is_ready_once_its_own_worker_says_so(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_is_ready")
    said: list[str] = []
    with Stack(load(), tmp_path / "stack", say=said.append) as stack:
        assert stack.wait_ready()["model_version"] == "none"
        assert [line.split(" at ")[0] for line in said[:2]] == ["Kafka", "Redis"]
        with redis.Redis.from_url(stack.settings.redis) as client:
            assert client.ping()
    assert marked(workers) == []


def test_a_worker_that_dies_is_told_with_its_last_words_and_its_logs_are_kept(
    workers: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_dies")
    with (
        pytest.raises(ChildDied, match=r"(?s)worker_that_dies ended .* 1; .*no model of that name"),
        scratch_directory() as directory,
        Stack(load(), directory) as stack,
    ):
        stack.wait_ready()
    assert (directory / "logs" / "worker_that_dies.log").exists()
    assert marked(workers) == []


def test_a_worker_that_is_never_ready_is_told_in_time(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_never_is")
    with Stack(load(), tmp_path / "stack") as stack, pytest.raises(NotReady, match="not ready after"):
        stack.wait_ready(timeout_s=0.2)


def test_a_stack_that_cannot_start_leaves_nothing_running(workers: str, scratch: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as holder,
        pytest.raises(EmbeddedError, match=r"for the embedded Redis .* in use"),
        scratch_directory() as directory,
        Stack(load(), directory, redis_port=holder.getsockname()[1]),
    ):
        raise AssertionError("it must not start")
    assert marked(workers) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lines", range(4))
def test_a_signal_at_any_point_ends_everything_and_cleans_up(
    workers: str, scratch: Path, lines: int, number: signal.Signals
) -> None:
    with subprocess.Popen([sys.executable, "-c", UP], stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        read = [up.stderr.readline() for _ in range(lines)]
        eventually(lambda: len(marked(workers)) > 1)
        up.send_signal(number)
        rest = up.stderr.read()
    assert up.returncode in (128 + number, -number), "".join(read) + rest
    assert "Traceback" not in rest
    assert marked(workers) == []
    assert list(scratch.iterdir()) == []


def test_nothing_survives_a_stack_that_was_killed(workers: str, scratch: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", UP], stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        while "started" not in up.stderr.readline():
            assert up.poll() is None
        os.kill(up.pid, signal.SIGKILL)
    eventually(lambda: marked(workers) == [])
