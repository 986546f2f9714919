"""Damaged messages, in one process: each becomes an event that all code of ingest accepts, or is refused."""

import os
import random

from tests.fuzz.events import drawn
from tests.fuzz.mutations import damaged_json
from thunder_ingest.counts.table import changes_of
from thunder_ingest.events import (
    EngagementEvent,
    FeedRequest,
    GraphEvent,
    PostEvent,
    Refused,
    decode,
    decode_any,
    encode,
    unpack_post,
)
from thunder_ingest.events.muting import phrases_of
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.compact_form import encode as encode_entries
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.state import decode as decode_state

INPUTS = 1_000_000 if os.environ.get("FORYOU_SOAK") else 10_000
NOW = 1_790_000_000_000
BATCH = 500


def test_every_damaged_message_is_an_event_or_refused() -> None:
    draw = random.Random(15)
    table, store, decoded, refused = PostTable(2**62), PostStore(), 0, 0
    for begin in range(0, INPUTS, BATCH):
        events: list[object] = []
        for number in range(begin, begin + BATCH):
            topic, event = drawn(draw, number, NOW)
            raw = damaged_json(draw, event)
            try:
                events.append(decode(topic, raw))
            except Refused:
                refused += 1
        decoded += len(events)
        for each in events:
            assert decode_any(encode(each)) == each  # type: ignore[arg-type]
        apply(events, table, store)
    assert decoded + refused == INPUTS
    assert min(decoded, refused) > INPUTS // 10
    assert len(store) <= len(table)


def apply(events: list[object], table: PostTable, store: PostStore) -> None:
    """The work of the flows and of the worker's replica on a batch."""
    changes = table.changes([each for each in events if isinstance(each, PostEvent)], NOW)
    values = [value for _, value, _ in changes.records if value is not None]
    _, others = store.apply_packed(values)
    store.apply([unpack_post(values[place]) for place in others])
    store.remove([int(key) for key, value, _ in changes.records if value is None])
    of_users = [each for each in events if isinstance(each, EngagementEvent | GraphEvent)]
    for kinds in entries_by_user(of_users).values():
        fields = {f"{kind}+1".encode(): encode_entries(kind, entries) for kind, entries in kinds.items()}
        phrases_of(decode_state(fields).keywords, True)
    changes_of([each for each in events if isinstance(each, EngagementEvent)])
    for each in events:
        if isinstance(each, FeedRequest):
            store.languages_in(each.langs or ())
