"""`foryou publish`: JSON lines of events, each to the topic of its type."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from feed_worker.client import Client
from infra.ports.settings import Settings
from thunder_ingest.events import Refused, decode_any, key_of, topic_of
from thunder_ingest.events.ids import published_form


def run(file: Path, settings: Settings, *, strict: bool) -> int:
    """Publish a file, or stdin for `-`; tells on stderr which lines were refused and why.

    Returns:
        the exit code: 1 where a line was refused.

    Raises:
        Refused: for a file that cannot be read.

    """
    with _opened(file) as lines, Client(settings) as client:
        published, refused = _publish(lines, client, strict=strict)
    sys.stderr.write(f"{published:,} published, {refused:,} refused\n")
    return 1 if refused else 0


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from None
    with opened:
        yield opened


def _publish(lines: Iterable[bytes], client: Client, *, strict: bool) -> tuple[int, int]:
    published = refused = 0
    for number, line in enumerate(lines, 1):
        if not (raw := line.strip()):
            continue
        try:
            event = decode_any(raw)
            # as it came: fields that are not known here may be known to those who read it
            client.publish_raw(topic_of(event), published_form(key_of(event)).encode(), raw)
        except Refused as reason:
            refused += 1
            sys.stderr.write(f"line {number}: {reason}\n")
            if strict:
                break
        else:
            published += 1
    return published, refused
