from pathlib import Path

import pytest

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
