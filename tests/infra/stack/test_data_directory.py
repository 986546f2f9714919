import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.__main__ import create_recovery_store
from infra.ports.errors import OtherCluster
from infra.stack.data_directory import DataDirectory, DataDirectoryInUse
from tests.infra.waiting import eventually, is_gone

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from infra.stack.data_directory import DataDirectory
with DataDirectory(Path(sys.argv[1])) as data:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"], pass_fds=[data.lock])
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_directory_in_use_is_refused_with_the_process_id_of_its_user(tmp_path: Path) -> None:
    with DataDirectory(tmp_path), pytest.raises(DataDirectoryInUse, match=f"process id {os.getpid()}: stop it"):
        DataDirectory(tmp_path).__enter__()
    with DataDirectory(tmp_path):
        pass


def test_a_directory_whose_user_was_killed_is_free_once_all_holders_of_its_lock_have_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        holder.send_signal(signal.SIGKILL)
        eventually(lambda: is_gone(holder.pid))  # a zombie until the end of the block
        lines: list[str] = []
        with DataDirectory(tmp_path, lines.append) as data:
            assert (data.path / "lock").read_text() == str(os.getpid())
    assert lines == ["wait until the log keeper of a stack that was killed has written its log"]


def test_recovery_stores_of_another_cluster_are_refused_with_both_ids(tmp_path: Path) -> None:
    with DataDirectory(tmp_path) as data:
        data.bind("one")
        data.bind("one")
        store = data.recovery_of("flows.posts")
        create_recovery_store(store)
        with pytest.raises(
            OtherCluster, match=r"cluster one, .* name two: .*--data, or delete " + re.escape(str(tmp_path))
        ):
            data.bind("two")
        data.discard_recovery()
        data.bind("two")
        assert not store.exists()
