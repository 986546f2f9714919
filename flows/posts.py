"""posts ▸ thunder-posts: the current state of every post, compacted by post id; refused messages ▸ dead-letters.

Run with `python -m flows posts --recovery DIR`. The flow's state is its changelog, `thunder-posts`: a
process restores it at its start. Joins of events are idempotent, so a replay from any older offset leads to the same
changelog.
"""

import logging
import time
from collections.abc import Callable
from typing import cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from flows.decoding import Decoded, Decoder
from flows.process import start
from flows.sinks import EpochSink
from flows.sources import Batch, KafkaSource
from infra.ports.clock import Clock, clock_of
from infra.ports.producer import Headers, Record
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from thunder_ingest.events import Refused, key_of_id
from thunder_ingest.events.dead_letters import dead_letter
from thunder_ingest.events.text import packed_tokens
from thunder_ingest.posts.table import PostTable

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 5.0


class Apply:
    """Joins post events into the table of posts and returns the changes."""

    def __init__(self, table: PostTable, clock: Clock, restore: Callable[[PostTable], None]) -> None:
        self._table, self._clock, self._restore = table, clock, restore
        self._restored = False
        self._expired_at = time.monotonic()

    def __call__(self, decoded: Decoded) -> list[Record]:
        """Return the changelog records and dead letters of a batch."""
        if not self._restored:
            self._restore(self._table)
            self._restored = True
        now_ms = self._clock.now_ms()
        changes, refused = self._table.changes(decoded.events, now_ms)
        return [
            *decoded.refused,
            *[dead_letter(decoded.messages[place], reason) for place, reason in refused.items()],
            *[Record("thunder-posts", key, value, headers) for key, value, headers in changes],
            *self._expired(now_ms),
        ]

    def _expired(self, now_ms: int) -> list[Record]:
        if time.monotonic() - self._expired_at < EXPIRE_EVERY_S:
            return []
        self._expired_at = time.monotonic()
        return [Record("thunder-posts", key_of_id(post_id), None) for post_id in self._table.expire(now_ms)]


def build_flow(source: Source[Batch], sink: Sink[tuple[str, list[Record]]], decode: Decoder, apply: Apply) -> Dataflow:
    """Return the dataflow with its steps."""
    flow = Dataflow("posts")
    batches = op.input("posts", flow, source)
    decoded = op.map("decode", batches, decode)
    records = op.map("apply", decoded, lambda each: (each.batch.part, apply(each)))
    op.output("thunder-posts", records, sink)
    return flow


def restore_from(settings: Settings) -> Callable[[PostTable], None]:
    """Return a function that fills the table from the changelog."""

    def restore(table: PostTable) -> None:
        for messages in scan(settings, ["thunder-posts"]):
            for message in messages:
                try:
                    table.restore(message.value(), cast(Headers | None, message.headers()))
                except Refused as reason:  # two processes wrote the post for different authors; the first record wins
                    log.error("thunder-posts %s: %s", message.key(), reason)
        log.info("%d posts restored", len(table))

    return restore


def flow() -> Dataflow:
    """Return the flow for the servers of the settings."""
    settings = start(["posts", "thunder-posts", "dead-letters"])
    packed_tokens("a word")  # compiles the hash of words now: the first posts would wait seconds for it
    clock = clock_of(settings.clock)
    apply = Apply(PostTable(settings.remembered_ms), clock, restore_from(settings))
    source = KafkaSource(settings, "posts", "flows.posts")
    return build_flow(source, EpochSink(settings, "posts"), Decoder(settings, clock), apply)
