"""The code blocks of README and quick start and the programs of the page on clients run beside `foryou up`."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks

pytestmark = pytest.mark.embedded

PAGES = ("README.md", "docs/quickstart.md")
RUNNABLE = ("sh", "python")
CLIENTS = [block for block in blocks("docs/clients.md") if block.language == "python"]
NODE = [block for block in blocks("docs/clients.md") if block.language == "js"]
ALL = [block for page in PAGES for block in blocks(page) if block.language in RUNNABLE]
MAKE = [block for block in ALL if block.text.startswith("make ")]
UP = [block for block in ALL if "foryou up" in block.text]
BESIDE = [block for block in ALL if block not in MAKE + UP] + CLIENTS
READY_TIMEOUT_S = 900
PORTS = (19092, 16379)
"""The ports of Kafka and Redis on the pages."""


def environment() -> dict[str, str]:
    """The terminal of a reader who has activated the environment and set nothing else."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FORYOU_", "PYTEST_", "MAKE"))}
    return clean | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}", "COLUMNS": "120"}


def command(block: Block) -> list[str]:
    return [sys.executable, "-c", block.text] if block.language == "python" else ["bash", "-ec", block.text]


def is_used(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an installed `.venv`, in which the README's `foryou up` runs until the end of the tests."""
    for port in PORTS:
        if is_used(port):
            pytest.skip(f"port {port} is in use by another process, such as your own `foryou up`")
    folder = tmp_path_factory.mktemp("reader")
    (folder / ".venv").symlink_to(sys.prefix)
    log = folder / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            command(UP[0]), cwd=folder, env=environment(), stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while "ready; Ctrl-C" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield folder
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(120) in (0, 130), log.read_text()
    finally:
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait(60)


def test_the_pages_have_the_blocks_that_these_tests_sort() -> None:
    assert len(MAKE) == 2
    assert [block.page for block in UP] == list(PAGES)
    assert UP[0].text.split("#")[0].split() == UP[1].text.split()
    assert len(BESIDE) >= 8
    assert (len(CLIENTS), len(NODE)) == (2, 1)


@pytest.mark.parametrize("block", MAKE, ids=lambda block: block.name)
def test_a_make_block_runs(block: Block) -> None:
    # ARGS reaches pytest, which prints its version instead of running these tests within themselves
    done = subprocess.run(
        command(block), cwd=ROOT, env=environment() | {"ARGS": "--version"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", BESIDE, ids=lambda block: block.name)
def test_a_block_runs_beside_foryou_up(block: Block, terminal: Path) -> None:
    done = subprocess.run(
        command(block), cwd=terminal, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).strip()  # `foryou publish` prints its count on stderr
    for pattern, check in EXPECTED.items():
        if re.search(pattern, block.text):
            check(done.stdout)


def test_each_expectation_belongs_to_one_block() -> None:
    assert {part: sum(bool(re.search(part, block.text)) for block in BESIDE) for part in EXPECTED} == dict.fromkeys(
        EXPECTED, 1
    )


@pytest.mark.parametrize("block", NODE, ids=lambda block: block.name)
def test_the_node_program_prints_two_pages_and_ends(block: Block, terminal: Path, tmp_path: Path) -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    packages = ["kafkajs@2.2.4", "redis@6.3.1"]
    try:
        install = subprocess.run(
            ["npm", "install", "--no-audit", *packages],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm could not install the packages in 180 s")
    if install.returncode != 0:
        pytest.skip(f"npm cannot install {' '.join(packages)}: {install.stderr[-300:]}")
    (tmp_path / "feed.mjs").write_text(block.text)
    done = subprocess.run(
        ["node", "feed.mjs"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, posts = done.stdout.split(maxsplit=2)
    assert {first, second} <= {"ok", "degraded", "empty"}
    assert posts.startswith("[")


def _has_the_post(printed: str) -> None:
    assert printed.split()[:2] == ["1", "1"], "the post of a moment ago is the first of the feed"


def _lacks_the_seen_post_and_has_the_followed_author(printed: str) -> None:
    assert "sky-1" not in printed
    assert "goal-1 · thunder" in printed


def _lacks_the_blocked_author_and_the_muted_keyword(printed: str) -> None:
    assert "sky-2" in printed
    assert "goal-1" not in printed
    assert "goal-2" not in printed


EXPECTED = {
    "Sailing across": _has_the_post,
    "^foryou feed eva ": _lacks_the_seen_post_and_has_the_followed_author,
    '"type": "block"': _lacks_the_blocked_author_and_the_muted_keyword,
}
