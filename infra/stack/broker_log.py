"""The log file of the embedded broker: topics and records in the order in which the broker accepted them.

The file is a sequence of frames: length and CRC-32 of a payload (two little-endian u32), then the payload, a
MessagePack array of entries. A power cut can leave a torn last frame, which is cut off. Any other damage is an error.
"""

import mmap
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Final, Self, TypeAlias

import msgspec

from infra.ports.errors import ForYouError

_HEADER: Final = Struct("<II")
_PAYLOAD_START: Final = re.compile(rb"(?=(?:[\x91-\x9f]|\xdc..|\xdd....)[\x90-\x9f]\xa1[rc])", re.DOTALL)
"""An array whose first element is an array with the tag of an entry."""


class LogDamaged(ForYouError, RuntimeError):
    """A frame of the log is damaged, and it is not a torn last frame. The file is left as it is."""


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
        self._path = path
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Entry]).decode
        self._is_synced = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()

    def read(self, *, is_whole: bool = False) -> Iterator[list[Entry]]:
        """The entries of each frame in order; later appends go behind them. A torn last frame is cut off.

        Args:
            is_whole: the log was closed properly, so that it has no torn frame.

        Raises:
            LogDamaged: a frame is damaged, and whole ones follow it or the log should be whole.

        """
        yield from map(self._decode, self._payloads(is_whole))

    def verify(self, *, is_whole: bool = False) -> None:
        """Check each frame like `read`, without decoding; raises `LogDamaged`."""
        for _ in self._payloads(is_whole):
            pass

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

    def _payloads(self, is_whole: bool) -> Iterator[bytes]:
        end = self._file.seek(0)
        while payload := self._payload():
            end = self._file.tell()
            yield payload
        if end < self.size_bytes and (is_whole or self._has_whole_frame_after(end)):
            raise LogDamaged(
                f"{self._path} is damaged at offset {end}: restore the file from a copy, choose another directory "
                "with --data, or start without data with --fresh"
            )
        self._file.seek(end)
        self._file.truncate()

    def _has_whole_frame_after(self, offset: int) -> bool:
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for match in _PAYLOAD_START.finditer(content, offset + _HEADER.size + 1):
                self._file.seek(match.start() - _HEADER.size)
                if self._payload():
                    return True
        return False

    def _payload(self) -> bytes | None:
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        length, checksum = _HEADER.unpack(header)
        if length > self.size_bytes - self._file.tell():
            return None
        payload = self._file.read(length)
        return payload if zlib.crc32(payload) == checksum else None
