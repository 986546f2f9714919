"""`foryou publish`: JSON lines of events, each to the topic of its type."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from feed_worker.client import Client
from infra.ports.settings import Settings
from thunder_ingest.events import Refused, decode_any, key_of, topic_of
from thunder_ingest.events.ids import published_form
from thunder_ingest.events.spelling import misspelt

WAIT_S: Final = 60.0
"""Time for published events to become servable."""


def run(file: Path, settings: Settings, *, strict: bool, wait: bool) -> int:
    """Publish a file, or stdin for `-`; print refused lines and misspelt fields on stderr.

    Args:
        file: JSON lines.
        settings: addresses.
        strict: stop at the first refused line.
        wait: wait until the published events can be served.

    Returns:
        the exit code: 1 if a line was refused.

    Raises:
        Refused: the file cannot be read.
        NotServable: the events cannot be served in time.

    """
    with _opened(file) as lines, Client(settings) as client:
        published, refused = _publish(lines, client, strict=strict)
        if wait:
            client.wait_servable(WAIT_S)
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
    warned = set[tuple[str, str]]()
    for number, line in enumerate(lines, 1):
        if not (raw := line.strip()):
            continue
        try:
            event = decode_any(raw)
            # unchanged: a reader may know fields that this version does not
            client.publish_raw(topic_of(event), published_form(key_of(event)).encode(), raw)
        except Refused as reason:
            refused += 1
            sys.stderr.write(f"line {number}: {reason}\n")
            if strict:
                break
        else:
            published += 1
            for pair in {*misspelt(raw, event)} - warned:  # once for each field, not for each line
                warned.add(pair)
                sys.stderr.write(f"line {number}: warning: unknown field `{pair[0]}`, ignored; is it `{pair[1]}`?\n")
    return published, refused
