"""The scan kernel: a register-blocked matrix product of 64 rows with 4 queries, over int8, fp16 or fp32 vectors.

glossary of shapes: `panels` of 64 rows, `lanes` (64) rows of a panel, `dim` components, `n` given rows, `queries` of a
batch, `tiles` of 4 queries.

A panel stores 64 rows, dimension by dimension: `stored[panel, d, lane]` is component d of row 64 · panel + lane. For
each dimension the kernel loads the component of all 64 rows and multiplies it with that of each of the four queries.
The 16 vectors of sums stay in registers, no sum crosses lanes, and memory is read once from front to back (packing and
register blocking: Goto and van de Geijn, 2008). So the scan runs at the speed of memory until arithmetic limits it.

Stored values are fp32, fp16, or int8 times a scale per row (symmetric quantisation); the kernel widens them to fp32. A
query is never rounded. The error of a product has a bound per row: `error`, see `write`. The host index re-scores
candidates within this bound in fp32, so its results are exact. Int8 reads a quarter of the bytes of fp32, which is the
gain while memory is the limit.

The kernel is LLVM IR, because LLVM does not keep 16 sums in vector registers when it vectorises the loop itself. The IR
is portable: LLVM splits vectors of 16 floats for the target. It fits AVX-512 (32 registers of 16 floats: 16 sums, 4
rows, a query). AVX2 (16 registers of 8 floats) and NEON (32 of 4) spill some of the sums to the stack; with AVX2 the
scan is as fast, since memory limits it. `plain_kernel` has the same functions without LLVM IR.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from jaxtyping import Float32, Int8, Int64
from llvmlite import ir
from numba import types
from numba.core import cgutils as numba_cgutils
from numba.extending import intrinsic

from thunder_ingest.kernels.compiled import kernel

Precision: TypeAlias = Literal["float32", "float16", "int8"]

PANEL: Final = 64
TILE: Final = 4
"""Queries of a tile: with 64 rows 16 sums of 16 lanes, which fit into AVX-512 registers beside the operands."""
LANES: Final = 16
_LEAST_SCALE: Final = np.float32(1e-30)
"""A vector with a smaller scale is stored as zeros, since the quotient would lose its digits; the bound covers it."""
cgutils: Any = numba_cgutils
_STORED: Final[dict[Precision, Any]] = {"float32": np.float32, "float16": np.int16, "int8": np.int8}
"""fp16 is passed as int16 with the same bits: Numba has no half type."""


class Panels(NamedTuple):
    """Panels of rows; the product of a row is that of `products` times its scale."""

    stored: Any  # [panels, dim, 64] of int8, int16 (fp16) or float32
    scale: Float32[np.ndarray, "panels 64"]
    error: Float32[np.ndarray, "panels 64"]  # bound on the error of a scaled product, per unit of the query's norm


def empty_panels(rows: int, dim: int, precision: Precision) -> Panels:
    """Empty panels for `rows`, a multiple of 64; untouched pages cost no memory."""
    panels = rows // PANEL
    stored = np.zeros((panels, dim, PANEL), _STORED[precision])
    return Panels(stored, np.zeros((panels, PANEL), np.float32), np.zeros((panels, PANEL), np.float32))


def write(panels: Panels, rows: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n dim"]) -> None:
    """Store vectors in rows, with the bound on the error of their products.

    With x the vector, x' its stored form and y a query, |x'y - xy| <= |x - x'| |y| (Cauchy-Schwarz), and a sum of
    d fp32 products adds at most d + 2 roundings of |x'| |y| 2^-24. The bound has twice that, for the scan and for the
    score that it is compared with, and twice again for the roundings of the bound itself. It excludes subnormal
    products, of components below 1e-19.
    """
    if panels.stored.dtype == np.float32:
        stored, restored, scale = vectors, vectors, np.ones(len(rows), np.float32)
    elif panels.stored.dtype == np.int16:
        halves = vectors.astype(np.float16)
        stored, restored, scale = halves.view(np.int16), halves.astype(np.float32), np.ones(len(rows), np.float32)
    else:
        stored, restored = np.empty(vectors.shape, np.int8), np.empty(vectors.shape, np.float32)
        scale = np.empty(len(rows), np.float32)
        _quantise(vectors, stored, restored, scale)
    _write(panels, rows, stored, restored, scale, vectors)


def read(panels: Panels, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
    """The stored vectors of rows; each component is within the rounding of the precision."""
    stored = panels.stored[rows // PANEL, :, rows % PANEL]
    widened = stored.view(np.float16) if stored.dtype == np.int16 else stored
    scale: Float32[np.ndarray, " n"] = panels.scale[rows // PANEL, rows % PANEL]
    return np.asarray(widened.astype(np.float32) * scale[:, np.newaxis])


def tiles(queries: Float32[np.ndarray, "queries dim"]) -> Float32[np.ndarray, "tiles dim 4"]:
    """Queries in tiles of four, dimension by dimension; the last tile is padded with zeros."""
    batch, dim = queries.shape
    padded = np.zeros((-(-batch // TILE) * TILE, dim), np.float32)
    padded[:batch] = queries
    return np.ascontiguousarray(padded.reshape(-1, TILE, dim).swapaxes(1, 2))


@kernel
def _quantise(
    vectors: Float32[np.ndarray, "n dim"],
    stored: Int8[np.ndarray, "n dim"],
    restored: Float32[np.ndarray, "n dim"],
    scale: Float32[np.ndarray, " n"],
) -> None:
    """Quantise each vector to integers from -127 to 127 times its own scale."""
    for row in range(len(vectors)):
        largest = np.float32(0)
        for value in vectors[row]:
            largest = max(largest, abs(value))
        scale[row] = largest / np.float32(127)
        by = np.float32(1) / scale[row] if scale[row] > _LEAST_SCALE else np.float32(0)
        for d in range(vectors.shape[1]):
            stored[row, d] = np.int8(np.rint(vectors[row, d] * by))
            restored[row, d] = scale[row] * np.float32(stored[row, d])


@kernel
def _write(
    panels: Panels,
    rows: Int64[np.ndarray, " n"],
    stored: Any,
    restored: Float32[np.ndarray, "n dim"],
    scale: Float32[np.ndarray, " n"],
    vectors: Float32[np.ndarray, "n dim"],
) -> None:
    dim = vectors.shape[1]
    for number in range(len(rows)):
        panel, lane = rows[number] // PANEL, rows[number] % PANEL
        lost, norm = 0.0, 0.0
        for d in range(dim):
            panels.stored[panel, d, lane] = stored[number, d]
            lost += (np.float64(vectors[number, d]) - np.float64(restored[number, d])) ** 2
            norm += np.float64(vectors[number, d]) ** 2
        panels.scale[panel, lane] = scale[number]
        bound = np.sqrt(lost) + 4 * (dim + 4) * 2.0**-24 * (np.sqrt(norm) + np.sqrt(lost))
        panels.error[panel, lane] = np.nextafter(np.float32(bound), np.float32(np.inf))


_Float: Final = ir.FloatType()
_Floats: Final = ir.VectorType(_Float, LANES)
_Int32: Final = ir.IntType(32)
_Int64: Final = ir.IntType(64)
_CONTRACT: Final = ("contract",)
"""Allows one rounding for a product and its sum, so that the compiler may use fused multiply-add."""


def _widened(builder: Any, stored: Any, at: Any) -> Any:
    """Load 16 stored values at an address as fp32."""
    if stored == types.float32:
        return builder.load(builder.bitcast(at, _Floats.as_pointer()), align=4)
    if stored == types.int16:
        halves = ir.VectorType(ir.HalfType(), LANES)
        return builder.fpext(builder.load(builder.bitcast(at, halves.as_pointer()), align=2), _Floats)
    integers = ir.VectorType(ir.IntType(8), LANES)
    return builder.sitofp(builder.load(builder.bitcast(at, integers.as_pointer()), align=1), _Floats)


def _broadcast(builder: Any, value: Any) -> Any:
    """A vector with one value in all lanes."""
    one = builder.insert_element(ir.Constant(_Floats, ir.Undefined), value, _Int32(0))
    every = ir.Constant(ir.VectorType(_Int32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_Floats, ir.Undefined), every)


def _fetch(builder: Any, at: Any) -> None:
    """Prefetch a cache line: memory would be idle while the tiles reuse a panel."""
    byte = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [byte, _Int32, _Int32, _Int32])
    prefetch = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0i8")
    builder.call(prefetch, [builder.bitcast(at, byte), *(_Int32(flag) for flag in (0, 3, 1))])


def _products(_context: Any, stored: Any, panel: Any, ahead: Any, queries: Any, tile: Any, out: Any) -> Any:
    """Write the products of a panel's rows with the four queries of a tile into `out` [4, 64].

    Each tile also prefetches its share of the panel `ahead`: one tile that prefetches the whole panel would take
    longer than its products, and memory would be idle during the other tiles.

    One pass over the dimensions: four registers of rows, one of a query's component, 16 of sums.
    """
    vectors = PANEL // LANES

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored_, queries_, out_ = (
            context.make_array(signature.args[place])(context, builder, arguments[place]) for place in (0, 3, 5)
        )
        dim = cgutils.unpack_tuple(builder, stored_.shape, 3)[1]
        size = builder.mul(dim, _Int64(PANEL))
        first_row = builder.gep(stored_.data, [builder.mul(arguments[1], size)])
        lines = stored.dtype.bitwidth // 8  # cache lines of one component of all rows
        all_tiles = cgutils.unpack_tuple(builder, queries_.shape, 3)[0]
        share = builder.udiv(builder.add(all_tiles, _Int64(PANEL - 1)), all_tiles)
        others = builder.mul(share, builder.mul(arguments[4], dim))
        to_fetch = builder.gep(stored_.data, [builder.add(builder.mul(arguments[2], size), others)])
        first_query = builder.gep(queries_.data, [builder.mul(arguments[4], builder.mul(dim, _Int64(TILE)))])
        before, loop, after = builder.block, builder.append_basic_block("dims"), builder.append_basic_block("sums")
        builder.branch(loop)

        builder.position_at_end(loop)
        d = builder.phi(_Int64)
        d.add_incoming(_Int64(0), before)
        sums = [builder.phi(_Floats) for _ in range(TILE * vectors)]
        lanes = builder.gep(first_row, [builder.mul(d, _Int64(PANEL))])
        rows = [_widened(builder, stored.dtype, builder.gep(lanes, [_Int64(LANES * v)])) for v in range(vectors)]
        for line in range(lines):
            place = builder.add(builder.mul(d, share), _Int64(PANEL // lines * line))
            _fetch(builder, builder.gep(to_fetch, [place]))
        added = []
        for q in range(TILE):
            at = builder.gep(first_query, [builder.add(builder.mul(d, _Int64(TILE)), _Int64(q))])
            component = _broadcast(builder, builder.load(at))
            for v in range(vectors):
                product = builder.fmul(rows[v], component, flags=_CONTRACT)
                added.append(builder.fadd(product, sums[q * vectors + v], flags=_CONTRACT))
        next_d = builder.add(d, _Int64(1))
        d.add_incoming(next_d, loop)
        for sum_, more in zip(sums, added, strict=True):
            sum_.add_incoming(ir.Constant(_Floats, [0.0] * LANES), before)
            sum_.add_incoming(more, loop)
        builder.cbranch(builder.icmp_signed("<", next_d, dim), loop, after)

        builder.position_at_end(after)
        for place, sum_ in enumerate(added):
            builder.store(
                sum_, builder.bitcast(builder.gep(out_.data, [_Int64(LANES * place)]), _Floats.as_pointer()), align=4
            )
        return context.get_dummy_value()

    return types.void(stored, panel, ahead, queries, tile, out), generate


products: Final = cast(Callable[..., None], intrinsic(_products))


def _reaching(
    _context: Any, found: Any, place: Any, scale: Any, error: Any, panel: Any, norm: Any, threshold: Any
) -> Any:
    """A bit for each row of a panel whose product plus error bound is at least a threshold.

    Args: the output of `products` [4, 64] and the query's index in it; scale and error [panels, 64] and the panel's
    index; the norm of the query; the threshold.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def lanes_of(array: int, row: int, lane: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            at = builder.gep(data, [builder.add(builder.mul(arguments[row], _Int64(PANEL)), _Int64(lane))])
            return builder.load(builder.bitcast(at, _Floats.as_pointer()), align=4)

        norms, thresholds = (_broadcast(builder, arguments[place]) for place in (5, 6))
        bits = _Int64(0)
        for lane in range(0, PANEL, LANES):
            score = builder.fmul(lanes_of(0, 1, lane), lanes_of(2, 4, lane))
            most = builder.fadd(score, builder.fmul(lanes_of(3, 4, lane), norms))
            reached = builder.bitcast(builder.fcmp_ordered(">=", most, thresholds), ir.IntType(LANES))
            bits = builder.or_(bits, builder.shl(builder.zext(reached, _Int64), _Int64(lane)))
        return bits

    return types.uint64(found, place, scale, error, panel, norm, threshold), generate


reaching: Final = cast(Callable[..., Any], intrinsic(_reaching))


def _lowest(_context: Any, bits: Any) -> Any:
    """The index of the lowest set bit."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(bits), generate


lowest: Final = cast(Callable[..., int], intrinsic(_lowest))


def _fetch_row(_context: Any, column: Any, row: Any, byte: Any) -> Any:
    """Prefetch the cache line of a row at a byte offset."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, array.strides, signature.args[0].ndim)[0]
        first = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        _fetch(builder, builder.gep(first, [builder.add(builder.mul(arguments[1], stride), arguments[2])]))
        return context.get_dummy_value()

    return types.void(column, row, byte), generate


fetch_row: Final = cast(Callable[..., None], intrinsic(_fetch_row))
