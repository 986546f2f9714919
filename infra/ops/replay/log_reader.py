"""Read a log directory: messages of the input topics as JSON lines, merged in event-time order.

A log is a directory with `posts.jsonl`, `engagements.jsonl` and `social-graph.jsonl`. Each file is plain or compressed
(`.gz`, `.zst`), is in event-time order, and may be missing. The reader decodes only the time and the key of a line, and
passes its bytes on unchanged. The flows validate events.

Files are read and merged in blocks, with one sort for some ten thousand lines. A merge line by line would cost more
than all other work together.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np
import zstandard
from msgspec import Struct
from numpy.typing import NDArray

from infra.ports.clock import DAY_MS
from infra.ports.errors import UsageError
from infra.ports.topics import INPUTS
from thunder_ingest.events import Time
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.events.refusals import time_hint

LOG_TOPICS: Final = tuple(topic for topic in INPUTS if topic != "feed-requests")
"""The topics of a log; lines with equal times are merged in this order."""
FORMS: Final = ("", ".gz", ".zst")
MAX_LINE_BYTES: Final = 64 << 20
_NEXT_LINES: Final = 8
"""Lines after a line that show whether its time is ahead of the file."""

_CHUNK_BYTES: Final = 1 << 20
_ZSTD_CHUNK_BYTES: Final = 1 << 16  # compressed bytes: JSON lines compress by a factor of ten and more
_ZSTD_WINDOW_BYTES: Final = 1 << 31  # logs are often packed with `zstd --long=31`


class LogError(UsageError, ValueError):
    """A log cannot be read; the text is one line with the file and the reason."""


class Line(Struct, frozen=True, gc=False):
    """One line of a log: a message of its topic."""

    topic: str
    number: int
    """Line number in the file, from 1; blank lines count."""
    file: str
    raw: bytes
    at: int | None
    """Event time, epoch ms; None if the line has a `problem`."""
    key: bytes | None
    """The Kafka key: the published form of the author's id (posts) or of the user's id; None without one."""
    problem: str | None = None
    """The reason why the line has no time (not JSON, no valid `at`); None for a line with a time."""


class LogReader:
    """A log directory.

    Args:
        directory: contains the files.

    Raises:
        LogError: the directory does not exist, has no file of a log, or has one file in two forms.

    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise LogError(f"{directory} is not a directory; give a directory with {_names()}")
        try:
            self.files = {topic: path for topic in LOG_TOPICS if (path := _find(directory, topic))}
            self.total_bytes = sum(path.stat().st_size for path in self.files.values())
        except OSError as error:
            raise LogError(f"{directory} cannot be read: {error.strerror}") from None
        if not self.files:
            raise LogError(f"{directory} has no log; a log has one or more of {_names()}, plain, .gz or .zst")
        self._sources: list[_Source] = []

    @property
    def bytes_read(self) -> int:
        """Bytes of `total_bytes` (sizes on disk) that the current `lines` has read."""
        return sum(source.bytes_read for source in self._sources)

    def lines(self) -> Iterator[Line]:
        """Every line that is not blank, in event-time order across files.

        The order within a file is kept. So a late line sorts with the newest line before it. A line without a time, or
        with a time days ahead of the lines after it, comes directly after the line before it.

        Raises:
            LogError: a file is damaged, cannot be opened, or has a line longer than `MAX_LINE_BYTES`.

        """
        self._sources = [_Source(topic, path) for topic, path in self.files.items()]
        while True:
            waiting = [source for source in self._sources if source.fill()]
            if not waiting:
                return
            yield from _merge(waiting)


class _Source:
    """One file: the block of lines to merge next, and their sort keys."""

    def __init__(self, topic: str, path: Path) -> None:
        self.bytes_read = 0
        self.times: NDArray[np.int64] = np.empty(0, np.int64)
        self._lines: list[Line] = []
        self._next = 0
        self._topic, self._path = topic, path
        self._head: type[_PostHead] | type[_UserHead] = _PostHead if topic == "posts" else _UserHead
        self._number = 0
        self._newest_ms = 0
        self._blocks = self._read()

    def fill(self) -> bool:
        """Read the next block if the current one is used up; False at the end of the file."""
        while self._next == len(self._lines):
            rows = next(self._blocks, None)
            if rows is None:
                return False
            self._parse(rows)
        return True

    def take(self, until_ms: int, *, inclusive: bool) -> tuple[list[Line], NDArray[np.int64]]:
        """Remove the lines before `until_ms`, or up to it if `inclusive`, from the block."""
        end = int(self.times.searchsorted(until_ms, "right" if inclusive else "left"))
        taken = self._lines[self._next : end], self.times[self._next : end]
        self._next = max(self._next, end)
        return taken

    def _parse(self, rows: list[bytes]) -> None:
        decode, topic, file = msgspec.json.Decoder(self._head).decode, self._topic, self._path.name
        lines: list[Line] = []
        times: list[int] = []
        at = self._newest_ms
        for number, raw in enumerate(rows, self._number + 1):
            try:
                head = decode(raw)
                lines.append(Line(topic, number, file, raw, head.at, head.key))
                at = head.at
            except (msgspec.DecodeError, ValueError, RecursionError):
                if not raw.strip():
                    continue
                lines.append(line := _odd_line(topic, number, file, raw))
                at = at if line.at is None else line.at
            times.append(at)
        self._number += len(rows)
        self._lines, self._next = lines, 0
        self._sort_keys(times)

    def _sort_keys(self, times: list[int]) -> None:
        """Sort keys never decrease within a file: a late line sorts with the newest line before it.

        A line of another year would carry all later lines of its file along: a time more than a day after most of the
        next lines does not count.
        """
        at = np.array(times, np.int64)
        if (at[:-1] > at[1:] + DAY_MS).any():
            earlier = np.zeros(len(at), np.int64)  # of the next lines
            for step in range(1, _NEXT_LINES + 1):
                earlier[:-step] += at[:-step] > at[step:] + DAY_MS
            next_lines = np.minimum(_NEXT_LINES, np.arange(len(at))[::-1])
            at = np.where(2 * earlier > next_lines, 0, at)
        self.times = np.maximum.accumulate(np.maximum(at, self._newest_ms))
        if times:
            self._newest_ms = int(self.times[-1])

    def _read(self) -> Iterator[list[bytes]]:
        try:
            with self._path.open("rb") as file:
                rest = b""
                for chunk in _DECOMPRESS[self._path.suffix](file):
                    self.bytes_read = file.tell()
                    rows = (rest + chunk).split(b"\n")
                    rest = rows.pop()
                    self._check_length(rest, len(rows))
                    yield rows
                yield [rest]
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise LogError(f"{self._path} cannot be read after line {self._number}: {error}") from None

    def _check_length(self, rest: bytes, complete_rows: int) -> None:
        if len(rest) > MAX_LINE_BYTES:
            number = self._number + complete_rows + 1
            raise LogError(f"{self._path}: line {number} has more than {MAX_LINE_BYTES >> 20} MiB; expected JSON lines")


def _merge(sources: list[_Source]) -> Iterator[Line]:
    """The lines that precede all unread ones; this uses up the block that ends first."""
    # of two blocks that end at the same time, the first in topic order is used up
    until_ms, last = min((int(source.times[-1]), position) for position, source in enumerate(sources))
    taken = [source.take(until_ms, inclusive=position <= last) for position, source in enumerate(sources)]
    blocks = [block for block in taken if block[0]]
    lines = [line for block, _ in blocks for line in block]
    if len(blocks) == 1:
        return iter(lines)
    order = np.concatenate([times for _, times in blocks]).argsort(kind="stable")
    return map(lines.__getitem__, order.tolist())


class _PostHead(Struct, gc=False):
    at: Time
    author_id: int | str | None = None

    @property
    def key(self) -> bytes | None:
        return _key(self.author_id)


class _UserHead(Struct, gc=False):
    at: Time
    user_id: int | str | None = None

    @property
    def key(self) -> bytes | None:
        return _key(self.user_id)


class _TimeOnly(Struct, gc=False):
    at: Time


def _key(published: int | str | None) -> bytes | None:
    if type(published) is int:
        return b"%d" % published
    if published is None:
        return None
    id64(published)  # raises ValueError for an id that no event may have
    return published_form(published).encode()


def _odd_line(topic: str, number: int, file: str, raw: bytes) -> Line:
    """A line without a usable key or time."""
    try:
        return Line(topic, number, file, raw, msgspec.json.decode(raw, type=_TimeOnly).at, None)
    except msgspec.ValidationError as error:
        return Line(topic, number, file, raw, None, None, str(error) + time_hint(str(error)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Line(topic, number, file, raw, None, None, f"not JSON: {error}")


def _find(directory: Path, topic: str) -> Path | None:
    paths = [path for form in FORMS if (path := directory / f"{topic}.jsonl{form}").is_file()]
    if len(paths) > 1:
        raise LogError(f"{directory} holds {' and '.join(path.name for path in paths)}; keep one of them")
    return paths[0] if paths else None


def _names() -> str:
    return ", ".join(f"{topic}.jsonl" for topic in LOG_TOPICS)


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK_BYTES), b"")


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        yield from iter(lambda: unpacked.read(_CHUNK_BYTES), b"")


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    """Decompress frame by frame: the library's stream reader accepts a truncated file as complete."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    inside = False
    while packed := file.read(_ZSTD_CHUNK_BYTES):
        while packed:
            yield frame.decompress(packed)
            inside, packed = not frame.eof, frame.unused_data
            if not inside:
                frame = decompressor.decompressobj()
    if inside:
        raise EOFError("the file ends within a zstd frame")


_DECOMPRESS: Final[dict[str, Callable[[IO[bytes]], Iterator[bytes]]]] = {
    ".jsonl": _plain,
    ".gz": _gzip,
    ".zst": _zstd,
}
