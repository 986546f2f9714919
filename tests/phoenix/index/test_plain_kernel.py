"""The kernels in LLVM IR against those in plain Numba, here and on a processor without AVX-512."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.index import int8_kernel, plain_kernel
from phoenix.index.int8_kernel import PANEL, TILE, Precision, empty_panels, read, tiles, write

DIM = 37
WITHOUT_AVX512 = """
import numpy as np
from tests.phoenix.index.test_plain_kernel import compared, panels_of
compared(panels_of("int8", 1), np.random.default_rng(2).normal(size=(4, 37)).astype(np.float32))
print("equal")
"""


@numba.njit
def by_both(
    stored: np.ndarray, queries: np.ndarray, scale: np.ndarray, error: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[list[int], list[int], list[int]]:
    """The products of the second panel, and the bits of the rows that reach a floor, by both kernels."""
    int8_kernel.products(stored, 1, 1, queries, 0, one)
    plain_kernel.products(stored, 1, 1, queries, 0, other)
    norm, floor = np.float32(1.5), np.float32(0.25)
    first = [int8_kernel.reaching(one, q, scale, error, 1, norm, floor) for q in range(TILE)]
    second = [plain_kernel.reaching(one, q, scale, error, 1, norm, floor) for q in range(TILE)]
    lowest = [int8_kernel.lowest(bits) - plain_kernel.lowest(bits) for bits in first if bits]
    return [int(bits) for bits in first], [int(bits) for bits in second], lowest


def panels_of(precision: Precision, seed: int) -> int8_kernel.Panels:
    vectors = np.random.default_rng(seed).normal(size=(2 * PANEL, DIM)).astype(np.float32)
    panels = empty_panels(2 * PANEL, DIM, precision)
    write(panels, np.arange(2 * PANEL), vectors)
    return panels


def compared(panels: int8_kernel.Panels, queries: np.ndarray) -> None:
    """Assert that both kernels have the products of the stored vectors, and the same rows that reach a floor."""
    one, other = (np.full((TILE, PANEL), np.nan, np.float32) for _ in range(2))
    first, second, lowest = by_both(panels.stored, tiles(queries), panels.scale, panels.error, one, other)
    expected = queries.astype(np.float64) @ read(panels, np.arange(PANEL, 2 * PANEL)).astype(np.float64).T
    for found in (one, other):
        np.testing.assert_allclose(found * panels.scale[1], expected, rtol=0, atol=1e-4)
    assert first == second
    assert not any(lowest)


@pytest.mark.parametrize("precision", get_args(Precision))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_both_kernels_agree(precision: Precision, seed: int) -> None:
    compared(panels_of(precision, seed), np.random.default_rng(seed + 1).normal(size=(TILE, DIM)).astype(np.float32))


def test_both_kernels_agree_on_a_processor_without_avx512(tmp_path: Path) -> None:
    # LLVM compiles for the named processor; the cache has code for this one
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CACHE_DIR": str(tmp_path)}
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("haswell is an x86-64 processor")
    done = subprocess.run([sys.executable, "-c", WITHOUT_AVX512], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("equal\n", 0), done.stderr
