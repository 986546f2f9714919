"""The changelog of a shard of counts: the records that lead an empty table to the shard's state.

Its topic is compacted. A record, a segment, has changes of voices. Joins are idempotent and commutative, so segments
may be read in any order, any number of times, and a segment that is older than another one does no harm.

What is written is proportional to what changed. New changes are appended to an open segment, which is written under its
key until it has SEGMENT_ROWS. When more changes than the table has voices were written since the whole table was, the
whole table is written, and tombstones replace all segments before it. So the live segments of a table of v voices have
at most 2 v + MIN_ROWS rows, 29 bytes each.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from thunder_ingest.counts.table import Changes
from thunder_ingest.counts.voices import AMOUNT, COLUMN, KEY, POST, ROW, STAMP

FORMAT_KEY: Final = b"format"
FORMAT: Final = b"1"
"""The first record of the topic; without it the topic was never written, or was deleted."""
SEGMENT_ROWS: Final = 128
WHOLE_ROWS: Final = 4_096
"""Rows of a segment of a whole table, and of a large batch of changes: 119 kB."""
MIN_ROWS: Final = 8_192


class Segment(Struct, array_like=True):
    """A record's value: the columns of changes, little-endian."""

    post_id: bytes  # int64
    key: bytes  # int64
    stamp: bytes  # int64
    column: bytes  # uint8
    amount: bytes  # uint32


_TYPES: Final = {POST: "<i8", KEY: "<i8", STAMP: "<i8", COLUMN: "u1", AMOUNT: "<u4"}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Segment).decode


def pack_changes(changes: Changes) -> bytes:
    """The value of a segment."""
    return _encode(Segment(*(changes[:, column].astype(type_).tobytes() for column, type_ in _TYPES.items())))


def unpack_changes(value: bytes) -> Changes:
    """The changes of a segment; raises ValueError for a broken one."""
    columns = [
        np.frombuffer(column, type_)
        for column, type_ in zip(msgspec.structs.astuple(_decode(value)), _TYPES.values(), strict=True)
    ]
    changes = np.empty((len(columns[0]), ROW), np.int64)
    for number, column in zip(_TYPES, columns, strict=True):
        changes[:, number] = column
    return changes


class Changelog:
    """The segments of one shard.

    Args:
        shard: its name, the beginning of its keys.
        run: names the process, so that two processes never write the same key.

    """

    def __init__(self, shard: str, run: str) -> None:
        self._prefix = f"{shard}/{run}/"
        self._keys: list[bytes] = []  # of live segments, except the open one
        self._replaced: list[bytes] = []
        self._open: list[Changes] = []
        self._written = 0  # rows since the whole table, in closed and open segments
        self._numbered = 0

    def read(self, key: bytes, rows: int) -> None:
        """Note a segment that an earlier process wrote."""
        self._keys.append(key)
        self._written += rows

    def records(
        self, changes: Changes, held: int, whole: Callable[[], Changes]
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """The records to write, in this order.

        Tombstones of replaced segments come one call after the table that replaces them: the caller has delivered that
        table meanwhile.

        Args:
            changes: those since the last call.
            held: the number of voices in the table.
            whole: returns the changes that lead an empty table to the present state.

        """
        yield from ((key, None) for key in self._replaced)
        self._replaced = []
        self._written += len(changes)
        if self._written > max(held, MIN_ROWS):
            yield from self._rewritten(whole())
        elif len(changes):
            self._open.append(changes)
            yield from self._appended(np.concatenate(self._open))

    def _appended(self, rows: Changes) -> Iterator[tuple[bytes, bytes]]:
        for begin in range(0, len(rows), WHOLE_ROWS):
            yield self._key(), pack_changes(rows[begin : begin + WHOLE_ROWS])
            if begin + WHOLE_ROWS < len(rows):
                self._close()
        self._open = [rows[begin:]]
        if len(self._open[0]) >= SEGMENT_ROWS:
            self._close()

    def _rewritten(self, rows: Changes) -> Iterator[tuple[bytes, bytes]]:
        if self._open:
            self._close()
        self._replaced, self._keys, self._written = self._keys, [], 0
        for begin in range(0, len(rows), WHOLE_ROWS):
            yield self._key(), pack_changes(rows[begin : begin + WHOLE_ROWS])
            self._close()

    def _key(self) -> bytes:
        return f"{self._prefix}{self._numbered}".encode()

    def _close(self) -> None:
        self._keys.append(self._key())
        self._numbered += 1
        self._open = []
