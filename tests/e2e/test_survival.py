"""Killed, replayed and rescaled flows: no accepted event is lost, and none is counted twice.

The expected state comes from a single pass over the log. Events are published out of order, and some twice.
`make test` runs a short form. FORYOU_SOAK=1 (`make soak`) runs the same code for longer.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from feed_worker.client import Client
from infra.ports.settings import Settings
from tests.e2e.conftest import eventually
from tests.e2e.derived_state import actual_state
from tests.e2e.event_log import (
    EVENTS,
    FEWER,
    FLOWS,
    SOAK,
    assert_expected_state,
    assert_no_lag,
    publish,
    shares,
    shuffled_events,
)
from tests.e2e.processes import Process, lag_of, outputs, running, stop
from thunder_ingest.events import Event

KILLS = 20 if SOAK else 2


@pytest.fixture(scope="module")
def events() -> Iterator[Event]:
    """Each test takes its share."""
    return iter(shuffled_events(EVENTS + 2 * FEWER))


def counts_and_users(settings: Settings) -> tuple[dict[int, list[int]], dict[str, dict[str, list[Any]]]]:
    """The totals of all posts, and the state of all users, once they are written."""
    state = actual_state(settings)
    return state.counts, state.users


def assert_progress(settings: Settings, client: Client, processes: dict[str, Process], events: Sequence[Event]) -> None:
    """Publish events and wait until the lag of each flow shrinks."""
    client.publish(events)
    client.flush()
    before = {flow: lag_of(settings, flow) for flow in FLOWS}
    assert eventually(lambda: all(lag_of(settings, flow) < max(1, before[flow]) for flow in FLOWS)), outputs(processes)


def test_flows_killed_at_random_times_reach_the_expected_state(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    moments = random.Random(7)
    with Client(own_settings) as client, running(own_settings, tmp_path, *FLOWS) as processes:
        for share in shares([*itertools.islice(events, EVENTS)], KILLS):
            first, *rest = shares(share, 1 + len(FLOWS))
            assert_progress(own_settings, client, processes, first)
            for flow, more in zip(moments.sample(FLOWS, len(FLOWS)), rest, strict=True):
                publish(client, more, moments.uniform(0.0, 1.5))
                processes[flow].kill()
                processes[flow].start()
        assert_no_lag(own_settings, client, processes, [])
        stop(processes)
    assert_expected_state(own_settings, valkey)


def test_a_log_once_three_times_over_or_with_every_message_doubled_gives_the_same_counts_and_users(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    log = [*itertools.islice(events, FEWER)]
    with Client(own_settings) as client, running(own_settings, tmp_path, *FLOWS) as processes:
        assert_no_lag(own_settings, client, processes, log)
        once = counts_and_users(own_settings)
        for again in (log, log, [event for each in log for event in (each, each)]):
            assert_no_lag(own_settings, client, processes, again)
        stop(processes)
    assert counts_and_users(own_settings) == once
    assert_expected_state(own_settings, valkey)


def test_flows_rescaled_from_one_process_to_two_and_back_lose_and_duplicate_no_event(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    one, stopped, two, restarted, killed, one_again = shares([*itertools.islice(events, FEWER)], 6)
    with Client(own_settings) as client:
        with running(own_settings, tmp_path, *FLOWS) as processes:
            assert_no_lag(own_settings, client, processes, one)
            client.publish(stopped)
            stop(processes)
        with running(own_settings, tmp_path, *FLOWS, processes=2) as processes:
            assert_no_lag(own_settings, client, processes, two)
            for flow in FLOWS:
                processes[f"{flow}-1"].kill()
                assert processes[f"{flow}-0"].wait() != 0  # a cluster ends as a whole
            for process in processes.values():
                process.start()
            assert_no_lag(own_settings, client, processes, restarted)
            client.publish(killed)  # the next cluster processes the unfinished events again
        with running(own_settings, tmp_path, *FLOWS) as processes:
            assert_no_lag(own_settings, client, processes, one_again)
            stop(processes)
    assert_expected_state(own_settings, valkey)
