"""Panels: vectors laid out so that the inner products of 64 rows with 4 queries need no register but the sums.

A panel holds 64 rows, dimension by dimension: `panels[p, d, lane]` is component d of row 64 p + lane. Going through the
dimensions, a few rows' worth of registers are loaded and each of the four queries' components multiplies them all. The
sums never leave the registers, nothing is added across lanes, and memory is read once, front to back: the scan runs at
the speed of memory until the multiplications bind.

Stored is fp32, fp16 or int8 times a scale; all of it is widened to fp32 on the way into the registers. A query is
therefore never rounded, and how far a product may be from the true one is known for each row: `error`, see `write`.
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
"""Queries that share a pass: with 64 rows 16 sums of 16 lanes, which AVX-512 holds with room for the operands."""
LANES: Final = 16
_LEAST_SCALE: Final = np.float32(1e-30)
"""Below it a vector is stored as zeros: the quotient would lose its digits. What that loses is in the bound."""
cgutils: Any = numba_cgutils
_STORED: Final[dict[Precision, Any]] = {"float32": np.float32, "float16": np.int16, "int8": np.int8}
"""fp16 travels as the integer of the same bits: compiled functions know no half."""


class Panels(NamedTuple):
    """P panels; what `products` finds for a row is to be multiplied by its scale."""

    stored: Any  # (P, d, 64), in the precision's type
    scale: Float32[np.ndarray, "P 64"]
    error: Float32[np.ndarray, "P 64"]  # at most this times the query's norm is a scaled product off


def empty_panels(rows: int, dim: int, precision: Precision) -> Panels:
    """Room for rows, a multiple of 64; memory is taken where it is first written."""
    panels = rows // PANEL
    stored = np.zeros((panels, dim, PANEL), _STORED[precision])
    return Panels(stored, np.zeros((panels, PANEL), np.float32), np.zeros((panels, PANEL), np.float32))


def write(panels: Panels, rows: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"]) -> None:
    """Store vectors in rows, with the bound on what a scan of them may be off.

    With x the vector, x' what is stored of it and y a query, |x'y - xy| <= |x - x'| |y| (Cauchy-Schwarz), and a sum of
    d fp32 products adds at most d + 2 roundings of |x'| |y| 2^-24. Doubled, for the scan and for the score that it is
    compared with, and doubled again for the roundings of the bound itself. Products too small for a normal number, of
    components below 1e-19, are not in it.
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


def read(panels: Panels, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
    """The vectors of rows as they are stored, each component off by at most the precision's rounding."""
    stored = panels.stored[rows // PANEL, :, rows % PANEL]
    widened = stored.view(np.float16) if stored.dtype == np.int16 else stored
    scale: Float32[np.ndarray, " n"] = panels.scale[rows // PANEL, rows % PANEL]
    return np.asarray(widened.astype(np.float32) * scale[:, np.newaxis])


def tiles(queries: Float32[np.ndarray, "B d"]) -> Float32[np.ndarray, "T d 4"]:
    """Queries by fours, dimension by dimension, the last four filled up with zeros."""
    batch, dim = queries.shape
    padded = np.zeros((-(-batch // TILE) * TILE, dim), np.float32)
    padded[:batch] = queries
    return np.ascontiguousarray(padded.reshape(-1, TILE, dim).swapaxes(1, 2))


@kernel
def _quantise(
    vectors: Float32[np.ndarray, "n d"],
    stored: Int8[np.ndarray, "n d"],
    restored: Float32[np.ndarray, "n d"],
    scale: Float32[np.ndarray, " n"],
) -> None:
    """Each vector as whole numbers from -127 to 127 times a scale of its own."""
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
    restored: Float32[np.ndarray, "n d"],
    scale: Float32[np.ndarray, " n"],
    vectors: Float32[np.ndarray, "n d"],
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
"""A product and the sum that it goes into may be rounded once: what lets the compiler use fused multiply-add."""


def _widened(builder: Any, stored: Any, at: Any) -> Any:
    """16 stored values from an address on, as fp32."""
    if stored == types.float32:
        return builder.load(builder.bitcast(at, _Floats.as_pointer()), align=4)
    if stored == types.int16:
        halves = ir.VectorType(ir.HalfType(), LANES)
        return builder.fpext(builder.load(builder.bitcast(at, halves.as_pointer()), align=2), _Floats)
    integers = ir.VectorType(ir.IntType(8), LANES)
    return builder.sitofp(builder.load(builder.bitcast(at, integers.as_pointer()), align=1), _Floats)


def _broadcast(builder: Any, value: Any) -> Any:
    """A number in all lanes."""
    one = builder.insert_element(ir.Constant(_Floats, ir.Undefined), value, _Int32(0))
    every = ir.Constant(ir.VectorType(_Int32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_Floats, ir.Undefined), every)


def _fetch(builder: Any, at: Any) -> None:
    """Ask for a cache line ahead of time: while a panel is gone through again and again, memory would stand idle."""
    byte = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [byte, _Int32, _Int32, _Int32])
    prefetch = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0i8")
    builder.call(prefetch, [builder.bitcast(at, byte), *(_Int32(flag) for flag in (0, 3, 1))])


def _products(_context: Any, stored: Any, panel: Any, ahead: Any, queries: Any, tile: Any, out: Any) -> Any:
    """Write the products of a panel's rows with the four queries of a tile into `out` (4, 64).

    Meanwhile each tile fetches its share of the panel that is `ahead`: asked for all of it at once, memory is slower
    than the products of one tile and idle during those of the others.

    Written in the compiler's own terms, since a loop that keeps 16 sums in vector registers is more than it finds by
    itself: one pass over the dimensions, four registers of rows, one of a query's component, 16 of sums.
    """
    vectors = PANEL // LANES

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored_, queries_, out_ = (
            context.make_array(signature.args[place])(context, builder, arguments[place]) for place in (0, 3, 5)
        )
        dim = cgutils.unpack_tuple(builder, stored_.shape, 3)[1]
        size = builder.mul(dim, _Int64(PANEL))
        first_row = builder.gep(stored_.data, [builder.mul(arguments[1], size)])
        lines = stored.dtype.bitwidth // 8  # of a cache, that one component of all rows fills
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
    """A bit for each row of a panel whose product, with what it may be off, is at least a threshold.

    Args: `products`' (4, 64) and the query's place in it; scale and error of all panels (P, 64) and the panel's number;
    the norm of the query; the threshold.
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
    """The place of the lowest bit that is set."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(bits), generate


lowest: Final = cast(Callable[..., int], intrinsic(_lowest))


def _fetch_row(_context: Any, column: Any, row: Any, byte: Any) -> Any:
    """Ask for the cache line that a row's bytes from one on are in, which will be needed soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, array.strides, signature.args[0].ndim)[0]
        first = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        _fetch(builder, builder.gep(first, [builder.add(builder.mul(arguments[1], stride), arguments[2])]))
        return context.get_dummy_value()

    return types.void(column, row, byte), generate


fetch_row: Final = cast(Callable[..., None], intrinsic(_fetch_row))
