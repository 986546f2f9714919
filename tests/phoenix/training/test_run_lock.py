import os
import subprocess
import sys
from pathlib import Path

import pytest

from phoenix.training.run_lock import DirectoryInUse, locked

HOLD = "import sys; from pathlib import Path; from phoenix.training.run_lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])):\n    print(flush=True); sys.stdin.read()"


def test_a_second_run_is_refused_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "models"),
        pytest.raises(DirectoryInUse, match=f"models is in use by a training run with process id {os.getpid()}: "),
        locked(tmp_path / "models"),
    ):
        pass


def test_a_run_that_was_killed_leaves_the_directory_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(DirectoryInUse, match=f"process id {holder.pid}"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with locked(tmp_path):
            pass
