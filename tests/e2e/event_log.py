"""The log of the tests of flows: events in random order, some twice, and the state that they must give."""

import os
import random
import time
from collections.abc import Sequence
from typing import Final

import redis

from feed_worker.client import Client
from infra.ports.clock import now_ms
from infra.ports.settings import Settings
from infra.world import WorldConfig, generate
from tests.e2e.conftest import eventually
from tests.e2e.derived_state import actual_state, expected_state
from tests.e2e.processes import Process, lag_of, outputs
from thunder_ingest.events import Event

SOAK: Final = bool(os.environ.get("FORYOU_SOAK"))
EVENTS: Final = 200_000 if SOAK else 8_000
FEWER: Final = EVENTS // 8
"""The number of events in tests of servers and of rescaling."""
FLOWS: Final = ("flows.posts", "flows.engagements")


def shuffled_events(engagements: int) -> list[Event]:
    """The events of a world in random order, every twentieth twice; posts and the graph come on top."""
    world = generate(WorldConfig(seed=7, users=300, posts=engagements // 8, engagements=engagements), now_ms())
    events, random_ = list(world.events()), random.Random(7)
    events += random_.sample(events, len(events) // 20)
    random_.shuffle(events)
    return events


def shares(events: Sequence[Event], number: int) -> list[Sequence[Event]]:
    """The events in equal parts."""
    return [events[index * len(events) // number : (index + 1) * len(events) // number] for index in range(number)]


def publish(client: Client, events: Sequence[Event], during_s: float) -> None:
    """Publish one malformed message, and then events evenly over some seconds."""
    client.publish_raw("posts", b"7", b'{"type":"post_eaten"}')
    pieces = 20
    for piece in shares(events, pieces):
        client.publish(piece)
        time.sleep(during_s / pieces)


def assert_expected_state(settings: Settings, valkey: redis.Redis) -> None:
    found, expected = actual_state(settings), expected_state(settings, valkey)
    for field in found._fields:
        assert getattr(found, field) == getattr(expected, field), field
    assert any(found.in_network.values()), "no user has an in-network post"


def assert_no_lag(settings: Settings, client: Client, processes: dict[str, Process], events: Sequence[Event]) -> None:
    """Publish events and wait until the flows have processed all events."""
    client.publish(events)
    client.flush()
    assert eventually(lambda: not any(lag_of(settings, flow) for flow in FLOWS)), outputs(processes)
