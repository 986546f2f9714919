"""The compact stored form of a user's entries of one kind. It has two versions; one hash may contain both.

Version 1: rows, the entries end to end. Appended tails use it, since a batch adds an entry or two.
Version 2: a layout byte, then rows or columns, compressed with Zstandard if that is shorter. Joined tails are rows, the
cheapest to write. Bases are columns: the number of entries, then one field after another. Times and posts are delta
encoded with zigzag; authors are dictionary encoded. Each field takes as many bytes as its largest value, in byte planes
(all lowest bytes, then all second bytes, …). A history of 1,024 positions takes 40 % of the bytes of its rows.

glossary of shapes: n entries, m values of a field that differ.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import zstandard
from jaxtyping import Int64, UInt64
from numpy.typing import NDArray

from thunder_ingest.users.entries import EDGE, EDGE_KINDS, HISTORY, KINDS, VIEW

ROWS: Final = 1
COMPACT: Final = 2

Entries = NDArray[Any]  # of a dtype in DTYPES

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "history": HISTORY,
    **dict.fromkeys(EDGE_KINDS, EDGE),
    "seen": VIEW,
    "rejected": VIEW,
    "served": VIEW,
}
"""The kinds with entries of fixed width; `keywords` are text, and `seen_before` is a filter."""

MOST_BYTES: Final = 64 << 20
"""Rows of one value: more than three million edges. A damaged or forged value must not fill the memory."""

_KNOWN_KINDS: Final = frozenset(KINDS)
_ROWS_BYTE, _COMPACT_BYTE = bytes((ROWS,)), bytes((COMPACT,))
_COMPRESSED, _IN_ROWS = 1, 2
_ZSTD_LEVEL: Final = 1  # higher levels gain 1 %
_BY_STEPS: Final = frozenset(("at", "post_id", "target_id"))
_BY_INDEX: Final = frozenset(("author_id",))


def encode(kind: str, entries: Iterable[bytes]) -> bytes:
    """Entries of one kind as rows.

    Raises:
        ValueError: for an unknown kind.

    """
    if kind not in _KNOWN_KINDS:
        raise ValueError(f"unknown kind of user state {kind!r}; known are {', '.join(KINDS)}")
    return _ROWS_BYTE + b"".join(entries)


def encode_columns(entries: Entries) -> bytes:
    """Entries of one of DTYPES as columns."""
    fields = [_encoded(name, np.ascontiguousarray(entries[name])) for name in entries.dtype.names or ()]
    return _packed(0, np.uint32(len(entries)).tobytes() + b"".join(fields))


def encode_rows(rows: bytes) -> bytes:
    """Rows, keywords or a filter in version 2."""
    return _packed(_IN_ROWS, rows)


def _packed(layout: int, body: bytes) -> bytes:
    compressed = zstandard.compress(body, _ZSTD_LEVEL)
    if len(compressed) < len(body):
        layout, body = layout | _COMPRESSED, compressed
    return bytes((COMPACT, layout)) + body


def rows_of(kind: str, stored: bytes) -> bytes:
    """The rows in a stored value of either version.

    Raises:
        ValueError: for an unknown version, which the text names, or a broken value.

    """
    if stored[:1] == _ROWS_BYTE:
        return stored[1:]
    if not is_compact(stored):
        raise ValueError(f"user state of version {stored[0] if stored else None}; this program knows {ROWS}, {COMPACT}")
    layout, body = int.from_bytes(stored[1:2]), stored[2:]
    if len(stored) < 2 or layout > _COMPRESSED | _IN_ROWS or not (layout & _IN_ROWS or kind in DTYPES):
        raise ValueError(f"broken: unknown layout {stored[1:2]!r}")
    try:
        if layout & _COMPRESSED:
            _check_size(zstandard.frame_content_size(body))
            body = zstandard.decompress(body)
        return body if layout & _IN_ROWS else _rows_of_columns(body, DTYPES[kind])
    except (zstandard.ZstdError, IndexError) as error:
        raise ValueError(f"broken: {error}") from error


def _check_size(size_bytes: int) -> None:
    if not 0 <= size_bytes <= MOST_BYTES:
        raise ValueError(f"broken: {size_bytes:,} bytes of rows; at most {MOST_BYTES:,} can be")


def is_compact(stored: bytes) -> bool:
    """True for a value of version 2."""
    return stored[:1] == _COMPACT_BYTE


def decode_entries(kind: str, stored: Iterable[bytes]) -> Entries:
    """The entries of stored values of either version, concatenated.

    Raises:
        ValueError: like `rows_of`.

    """
    # joined as bytes: np.concatenate of record arrays spends microseconds on comparing their types
    return np.frombuffer(b"".join([rows_of(kind, value) for value in stored]), DTYPES[kind])


def _rows_of_columns(body: bytes, dtype: np.dtype[Any]) -> bytes:
    reader = _Reader(body)
    entries = np.empty(reader.number(dtype.itemsize), dtype)
    for name in dtype.names or ():
        entries[name] = _decoded(name, reader, len(entries))
    reader.finish()
    return entries.tobytes()


def _encoded(name: str, values: NDArray[Any]) -> bytes:
    if name in _BY_STEPS:
        return _steps(values)
    if name in _BY_INDEX:
        ids, index = np.unique(values, return_inverse=True)
        return np.uint32(len(ids)).tobytes() + _steps(ids) + _planes(index.astype(np.uint64))
    return _planes(values.astype(np.uint64))


def _steps(values: Int64[np.ndarray, " n"]) -> bytes:
    steps = np.diff(values)
    return values[:1].tobytes() + _planes(((steps << 1) ^ (steps >> 63)).view(np.uint64))


def _planes(values: UInt64[np.ndarray, " n"]) -> bytes:
    width = (int(values.max(initial=0)).bit_length() + 7) // 8
    return bytes((width,)) + values.view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def _decoded(name: str, reader: "_Reader", count: int) -> NDArray[Any]:
    if name in _BY_STEPS:
        return reader.steps(count)
    if name in _BY_INDEX:
        ids = reader.steps(reader.number(8))
        return ids[reader.planes(count).view(np.int64)]
    return reader.planes(count)


class _Reader:
    """Reads columns in the order in which they were written; all methods raise ValueError for missing bytes."""

    def __init__(self, body: bytes) -> None:
        self._body, self._offset = body, 0

    def number(self, of_bytes: int) -> int:
        """A number of items that take so many bytes each."""
        number = int(self._take(np.dtype("<u4"), 1)[0])
        _check_size(number * of_bytes)
        return number

    def steps(self, count: int) -> Int64[np.ndarray, " m"]:
        if not count:
            self.planes(0)
            return np.zeros(0, np.int64)
        values = np.empty(count, np.int64)
        values[0] = self._take(np.dtype("<i8"), 1)[0]
        zigzag = self.planes(count - 1)
        values[1:] = (zigzag >> 1).view(np.int64) ^ -(zigzag & 1).view(np.int64)
        return np.cumsum(values, out=values)

    def planes(self, count: int) -> UInt64[np.ndarray, " n"]:
        width = int(self._take(np.dtype("u1"), 1)[0])
        values = np.zeros((count, 8), np.uint8)
        values[:, :width] = self._take(np.dtype("u1"), count * width).reshape(width, count).T
        return values.view(np.uint64).reshape(count)

    def finish(self) -> None:
        if self._offset != len(self._body):
            raise ValueError(f"broken: {len(self._body) - self._offset} bytes too many")

    def _take(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        end = self._offset + count * dtype.itemsize
        if end > len(self._body):
            raise ValueError("broken: truncated")
        taken = np.frombuffer(self._body[self._offset : end], dtype)
        self._offset = end
        return taken
