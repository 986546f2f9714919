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
from infra.stack.embedded import EmbeddedError, EmbeddedRedis
from infra.stack.kept_kafka import KeptKafka
from infra.stack.processes import KILL_WAIT_S, ChildDied
from infra.stack.stack import NotReady, Stack, scratch_directory
from infra.terminal.signals import LONGEST_EXIT_S
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
ports = ["--kafka-port", str(_free_port()), "--redis-port", str(_free_port())]
sys.argv = ["foryou", "up", *ports, *sys.argv[1:]]
from infra.cli.__main__ import main
main()
"""


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Replace the worker by stubs and start no flows. Returns the mark of these processes."""
    for name, program in WORKERS.items():
        (tmp_path / f"{name}.py").write_text(program)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setattr(stack_module, "FLOW_GROUPS", {})
    return mark


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The parent of all scratch directories."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_a_stack_is_ready_once_its_own_worker_is_registered(
    system: str, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_is_ready")
    monkeypatch.setattr(stack_module, "SYSTEM", system)
    lines: list[str] = []
    with Stack(load(), tmp_path / "stack", print_line=lines.append) as stack:
        assert stack.wait_ready()["model_version"] == "none"
        assert [line.split(" at ")[0] for line in lines[:2]] == ["Kafka", "Redis"]
        with redis.Redis.from_url(stack.settings.redis) as client:
            assert client.ping()
    assert marked(workers) == []


def test_a_worker_that_dies_is_reported_with_the_end_of_its_log_and_the_logs_are_kept(
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


def test_a_worker_that_is_never_ready_is_reported_after_the_timeout(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_never_is")
    with Stack(load(), tmp_path / "stack") as stack, pytest.raises(NotReady, match="not ready after"):
        stack.wait_ready(timeout_s=0.2)


def test_a_stack_that_cannot_start_leaves_no_process_and_no_directory(workers: str, scratch: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as holder,
        pytest.raises(EmbeddedError, match=r"for the embedded Redis .* in use"),
        scratch_directory() as directory,
        Stack(load(), directory, redis_port=holder.getsockname()[1]),
    ):
        raise AssertionError("the stack must not start")
    assert marked(workers) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lines", range(4))
def test_a_signal_at_any_point_ends_all_processes_and_removes_the_scratch_directory(
    workers: str, scratch: Path, lines: int, number: signal.Signals
) -> None:
    with subprocess.Popen([sys.executable, "-c", UP, "--fresh"], stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        read = [up.stderr.readline() for _ in range(lines)]
        eventually(lambda: len(marked(workers)) > 1)
        up.send_signal(number)
        rest = up.stderr.read()
    assert up.returncode in (128 + number, -number), "".join(read) + rest
    assert "Traceback" not in rest
    assert marked(workers) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("option", ["--fresh", "--data=data"])
def test_no_process_survives_a_stack_that_was_killed(option: str, workers: str, scratch: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-c", UP, option]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as up:
        assert up.stderr is not None
        while "started" not in up.stderr.readline():
            assert up.poll() is None
        os.kill(up.pid, signal.SIGKILL)
    eventually(lambda: marked(workers) == [])


def test_a_second_stack_on_one_directory_is_refused_with_the_process_id_of_the_first(
    workers: str, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", UP, "--data=data"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as first:
        assert first.stderr is not None
        try:
            while "started" not in first.stderr.readline():
                assert first.poll() is None
            second = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)
            first.terminate()
            first.communicate(timeout=120)
        finally:
            first.kill()
    assert second.returncode == 1
    assert f"data is in use by `foryou up` with process id {first.pid}" in second.stderr


def test_a_kept_stack_deletes_the_registry_entries_of_earlier_workers(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_is_ready")
    with Stack(load(), tmp_path / "data", is_kept=True) as stack:
        stack.wait_ready()
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_never_is")
    with (
        Stack(load(), tmp_path / "data", is_kept=True) as stack,
        redis.Redis.from_url(stack.settings.redis) as client,
    ):
        assert not client.exists("foryou:ready")


def test_the_time_limit_of_the_cleanup_is_above_the_sum_of_the_grace_periods(tmp_path: Path) -> None:
    kept_redis = EmbeddedRedis(tmp_path, is_kept=True)
    graces_s = (KeptKafka.grace_s, kept_redis.grace_s, stack_module.GRACE_S)
    assert sum(grace_s + KILL_WAIT_S for grace_s in graces_s) < LONGEST_EXIT_S


def test_an_unclean_stop_discards_recovery_stores_and_a_clean_one_keeps_them(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "WORKER", "worker_that_is_ready")
    lines: list[str] = []

    def start_and_stop() -> Path:
        with Stack(load(), tmp_path / "data", is_kept=True, print_line=lines.append) as stack:
            stack.wait_ready()
            return stack.directory / "recovery" / "flows.posts"

    store = start_and_stop()
    store.mkdir()
    start_and_stop()
    assert store.exists()
    (tmp_path / "data" / "kafka" / "clean").unlink()
    start_and_stop()
    assert not store.exists()
    assert sum("last stop was not clean" in line for line in lines) == 1
