import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "LANG": "C"}
    command = [shutil.which("make") or "make", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def interpreter(directory: Path, name: str, version: str) -> str:
    program = directory / name
    program.write_text(f'#!/bin/sh\ncase "$2" in *version_info*) exit {version} ;; esac\n')
    program.chmod(0o755)
    return str(program)


def test_a_wrong_python_is_reported_in_one_line_with_the_versions_needed(checkout: Path) -> None:
    done = make(checkout, "demo", f"PYTHON={interpreter(checkout, 'old-python', '1')}")
    assert done.returncode == 2
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "needs Python 3.11 or 3.12, and" in line
    assert "old-python is neither" in line
    assert not (checkout / ".venv").exists()


def test_a_missing_python_is_reported_in_one_line(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    done = make(checkout, "test", path=str(tools))
    assert done.returncode == 2
    assert len((done.stdout + done.stderr).splitlines()) == 1
    assert "needs Python 3.11 or 3.12" in done.stderr


def test_a_suitable_python_is_found_under_any_name(checkout: Path) -> None:
    interpreter(checkout, "python3", "1")
    interpreter(checkout, "python3.12", "0")
    done = make(checkout, "--dry-run", "install", path=f"{checkout}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "python3.12 -m venv .venv"


def test_packages_are_installed_only_once(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch()
    (checkout / ".venv" / "installed").touch()
    done = make(checkout, "--dry-run", "demo")
    assert done.stdout.splitlines() == [".venv/bin/foryou demo"]


def test_the_constraints_pin_every_line_to_one_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in lines)
    assert not any(line.startswith("foryou") for line in lines)
