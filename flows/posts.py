"""posts ▸ thunder-posts: the current state of every post, compacted by post id; refused messages ▸ dead-letters.

Run with `python -m flows posts --recovery DIR`. The flow's state is its changelog, `thunder-posts`: a process restores
its part of it at its start. Joins of events are idempotent, so a replay from any older offset leads to the same
changelog.

The processes of a cluster share the posts by id: a process reads some partitions of `posts`, and hands each event to
the process of its post. So the partition of an event makes no difference, whichever partitioner its producer has.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink
from confluent_kafka import Message

from flows.decoding import Decoded, Decoder
from flows.process import restored_from, start
from flows.sinks import EpochSink
from flows.sources import Batch, KafkaSource
from infra.ports.broken_records import UNREADABLE, skip_record
from infra.ports.clock import Clock, clock_of
from infra.ports.message import MessageCopy
from infra.ports.producer import Headers, Record
from infra.ports.settings import Settings
from thunder_ingest.events import PostEvent, Refused, key_of_id
from thunder_ingest.events.dead_letters import dead_letter
from thunder_ingest.events.ids import id64
from thunder_ingest.events.text import packed_tokens
from thunder_ingest.kernels.hashing import GOLDEN
from thunder_ingest.posts.table import PostTable

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 5.0

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[PostEvent]).decode


class Share:
    """The events of a batch for the posts of one process, the message of each event, and dead letters to write.

    Between processes it travels as MessagePack: a Kafka message cannot be pickled, and an event slowly.
    """

    def __init__(self, events: Sequence[PostEvent], messages: Sequence[Message], refused: Sequence[Record]) -> None:
        self.events, self.messages, self.refused = events, messages, refused

    def __reduce__(self) -> tuple[Any, ...]:
        return _share, (_encode(self.events), [MessageCopy.of(each) for each in self.messages], self.refused)


def _share(events: bytes, messages: Sequence[MessageCopy], refused: Sequence[Record]) -> Share:
    return Share(_decode(events), messages, refused)


class Route:
    """Divides batches among the processes of the cluster, which each have a part of the posts.

    Args:
        processes: their number.

    """

    def __init__(self, processes: int) -> None:
        self.parts = [str(part) for part in range(processes)]

    def part_of(self, post_id: int) -> str:
        """Return the part of a post."""
        return self.parts[(post_id * int(GOLDEN) >> 32 & 0xFFFFFFFF) % len(self.parts)]

    def __call__(self, decoded: Decoded) -> Iterator[tuple[str, Share]]:
        """Yield a share for each part, also an empty one: an idle process expires posts, too."""
        if len(self.parts) == 1:
            yield self.parts[0], Share(decoded.events, decoded.messages, decoded.refused)
            return
        events: dict[str, list[PostEvent]] = {part: [] for part in self.parts}
        messages: dict[str, list[Message]] = {part: [] for part in self.parts}
        for event, message in zip(decoded.events, decoded.messages, strict=True):
            part = self.part_of(id64(event.post_id))
            events[part].append(event)
            messages[part].append(message)
        for part in self.parts:
            yield part, Share(events[part], messages[part], decoded.refused if part == self.parts[0] else ())


class Apply:
    """Joins post events into a table of posts and returns the changes."""

    def __init__(self, table: PostTable, clock: Clock, restore: Callable[[PostTable], None]) -> None:
        self._table, self._clock, self._restore = table, clock, restore
        self._restored = False
        self._expired_at = time.monotonic()

    def __call__(self, share: Share) -> list[Record]:
        """Return the changelog records and dead letters of a share."""
        if not self._restored:
            self._restore(self._table)
            self._restored = True
        now_ms = self._clock.now_ms()
        changes, refused = self._table.changes(share.events, now_ms)
        return [
            *share.refused,
            *[dead_letter(share.messages[place], reason) for place, reason in refused.items()],
            *[Record("thunder-posts", key, value, headers) for key, value, headers in changes],
            *self._expired(now_ms),
        ]

    def _expired(self, now_ms: int) -> list[Record]:
        if time.monotonic() - self._expired_at < EXPIRE_EVERY_S:
            return []
        self._expired_at = time.monotonic()
        return [Record("thunder-posts", key_of_id(post_id), None) for post_id in self._table.expire(now_ms)]


def build_flow(source: Source[Batch], sink: Sink[tuple[str, Share]], decode: Decoder, route: Route) -> Dataflow:
    """Return the dataflow with its steps; the sink has the tables of posts."""
    flow = Dataflow("posts")
    batches = op.input("posts", flow, source)
    decoded = op.map("decode", batches, decode)
    op.output("post-table", op.flat_map("route", decoded, route), sink)
    return flow


def restore_from(settings: Settings, is_own: Callable[[int], bool]) -> Callable[[PostTable], None]:
    """Return a function that fills a table from the changelog, with the posts of its part."""

    def restore(table: PostTable) -> None:
        for messages in restored_from(settings, "thunder-posts"):
            for message in messages:
                try:
                    if is_own(int(message.key() or 0)):
                        table.restore(message.value(), cast(Headers | None, message.headers()))
                except Refused as reason:  # records of two authors; the first record wins
                    log.error("thunder-posts %s: %s", message.key(), reason)
                except UNREADABLE as error:
                    skip_record("thunder-posts", message.key(), error)
        log.info("%d posts restored", len(table))

    return restore


def flow(processes: int = 1) -> Dataflow:
    """Return the flow for the servers of the settings.

    Args:
        processes: number of processes of the cluster, the same in each.

    """
    settings = start(["posts", "thunder-posts", "dead-letters"])
    packed_tokens("a word")  # compiles the hash of words now: the first posts would wait seconds for it
    clock, route = clock_of(settings.clock), Route(processes)

    def apply(part: str) -> Apply:
        restore = restore_from(settings, lambda post_id: route.part_of(post_id) == part)
        return Apply(PostTable(settings.remembered_ms), clock, restore)

    sink = EpochSink(settings, route.parts, apply)
    return build_flow(KafkaSource(settings, "posts", "flows.posts"), sink, Decoder(settings, clock), route)
