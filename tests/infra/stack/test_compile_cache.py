import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from infra.stack import compile_cache


def test_every_program_is_cached_in_the_cache_directory_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    variables = compile_cache.compile_cache()
    assert variables["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "foryou" / "jax")
    assert float(variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) == 0
    assert not compile_cache.is_filled()
    compile_cache.mark_filled()
    assert compile_cache.is_filled()


def test_variables_that_are_set_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    variables = compile_cache.compile_cache()
    assert variables["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    assert variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"


def test_an_entry_that_was_cut_short_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = compile_cache.cache_directory()
    directory.mkdir(parents=True)
    entry = zstandard.ZstdCompressor().compress(bytes(range(256)) * 100)
    for name, content in (("whole", entry), ("cut", entry[:-1]), ("empty", b"")):
        (directory / f"jit_{name}-cache").write_bytes(content)
    compile_cache.drop_damaged()
    assert [path.name for path in directory.iterdir()] == ["jit_whole-cache"]


def test_an_entry_of_jax_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = "import jax; jax.jit(lambda x: x + 1)(1)"
    env = {**os.environ, **compile_cache.compile_cache()}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
    entries = [*compile_cache.cache_directory().glob("*-cache")]
    assert entries
    compile_cache.drop_damaged()
    assert all(entry.exists() for entry in entries)


def test_the_entries_of_a_directory_that_a_variable_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    (tmp_path / "jit_other-cache").write_bytes(b"of another program")
    compile_cache.drop_damaged()
    assert (tmp_path / "jit_other-cache").exists()
