"""The log file of the embedded broker: topics and records in the order in which the broker accepted them.

The file is a sequence of frames: length and CRC-32 of a payload (two little-endian u32), then the payload, a
MessagePack array of entries. A frame that is cut short or damaged ends the log.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Final, Self, TypeAlias

import msgspec

_HEADER: Final = Struct("<II")


class Record(msgspec.Struct, tag="r", array_like=True, frozen=True, gc=False):
    """A record of a partition. `timestamp_ms` is 0 if the record has none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None = None


class TopicCreated(msgspec.Struct, tag="c", array_like=True, frozen=True):
    """A topic as the broker describes it."""

    topic: str
    partitions: int
    config: dict[str, str]


Entry: TypeAlias = Record | TopicCreated


class BrokerLog:
    """Reads the log file once, then appends to it. A context manager, for one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Entry]).decode
        self._is_synced = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()

    def read(self) -> Iterator[list[Entry]]:
        """The frames in order. The file is cut behind the last whole frame, and later appends go there."""
        end = self._file.seek(0)
        while payload := self._payload():
            end = self._file.tell()
            yield self._decode(payload)
        self._file.seek(end)
        self._file.truncate()

    def append(self, entries: Sequence[Entry]) -> None:
        """Append a frame. It survives the end of this process, and after `sync` that of the machine."""
        payload = self._encode(entries)
        self._file.write(_HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
        self._file.flush()
        self._is_synced = False

    def sync(self) -> None:
        """Write what was appended to the disk."""
        if not self._is_synced:
            os.fsync(self._file.fileno())
            self._is_synced = True

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return os.fstat(self._file.fileno()).st_size

    def _payload(self) -> bytes | None:
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        length, checksum = _HEADER.unpack(header)
        payload = self._file.read(length)
        return payload if len(payload) == length and zlib.crc32(payload) == checksum else None
