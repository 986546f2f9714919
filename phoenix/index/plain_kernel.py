"""The functions of `int8_kernel` as plain Numba: their definition for readers, and the fallback on other processors.

The scan uses these where the LLVM IR has not been tried: on all processors but x86-64 and ARM64. Tests compare both,
and `benchmarks.retrieval` measures both: the LLVM IR is more than twice as fast, which is the reason to keep it.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Float32
from numba import types
from numba.extending import overload

from phoenix.index.int8_kernel import PANEL, TILE
from thunder_ingest.kernels.compiled import inlined, kernel, summing

_HALVES: Final = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""The value of each bit pattern of fp16."""


def _component(stored: Any) -> Any:
    """A stored value as fp32; int16 has the bits of fp16."""
    return _HALVES[np.uint16(stored)] if isinstance(stored, np.int16) else np.float32(stored)


@overload(_component, inline="always")
def _component_of(stored: Any) -> Any:
    """Choose the branch of `_component` by the type, when a kernel is compiled."""

    def of_bits(stored: Any) -> Any:
        return _HALVES[np.uint16(stored)]

    def of_number(stored: Any) -> Any:
        return np.float32(stored)

    return of_bits if stored == types.int16 else of_number


@summing
def products(stored: Any, panel: int, _ahead: int, queries: Any, tile: int, out: Float32[np.ndarray, "4 64"]) -> None:
    """Write the products of a panel's rows with the four queries of a tile into `out`; without a prefetch."""
    for query in range(TILE):
        for lane in range(PANEL):
            out[query, lane] = np.float32(0)
    for d in range(stored.shape[1]):
        for query in range(TILE):
            component = queries[tile, d, query]
            for lane in range(PANEL):
                out[query, lane] += _component(stored[panel, d, lane]) * component


@kernel
def reaching(
    found: Float32[np.ndarray, "4 64"],
    place: int,
    scale: Float32[np.ndarray, "panels 64"],
    error: Float32[np.ndarray, "panels 64"],
    panel: int,
    norm: np.float32,
    threshold: np.float32,
) -> np.uint64:
    """A bit for each row of a panel whose product plus error bound is at least a threshold."""
    bits = np.uint64(0)
    for lane in range(PANEL):
        most = found[place, lane] * scale[panel, lane] + error[panel, lane] * norm
        if most >= threshold:
            bits |= np.uint64(1) << np.uint64(lane)
    return bits


@kernel
def lowest(bits: np.uint64) -> int:
    """The index of the lowest set bit."""
    place = 0
    while not bits & np.uint64(1):
        bits >>= np.uint64(1)
        place += 1
    return place


@inlined
def fetch_row(_column: Any, _row: int, _byte: int) -> None:
    """Prefetch nothing: plain code has no means to."""
