"""Three workers under random faults: every request ends in exactly one status.

A seed determines the faults and their times; the test prints it. `make test` runs a short form. FORYOU_SOAK=1
(`make soak`) runs the same code for longer. FORYOU_SEED=N repeats the faults of a seed.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from feed_worker.client import Client
from infra.ports.settings import Settings
from tests.e2e import containers, invariants
from tests.e2e.app import App
from tests.e2e.conftest import eventually
from tests.e2e.faults import Worker, group_of_workers, plan
from tests.e2e.feed_watcher import FeedWatcher
from tests.e2e.processes import lag_of

SOAK = bool(os.environ.get("FORYOU_SOAK"))
SEED = int(os.environ.get("FORYOU_SEED") or random.randrange(1_000_000))
REQUESTS, ROUNDS, FAULTS_A_ROUND = (5_000, 24, 2) if SOAK else (360, 3, 3)
KILL_ALL_EVERY = 4 if SOAK else 3
"""Rounds between two checks of the committed offsets. Each check kills all workers."""
ROUND_S = 6.0
SHOWN = 5


def assert_no_violations(**violations: Iterator[str]) -> None:
    """Assert that there is no violation. The message has the number of each kind, and the first few."""
    found = {kind: list(each) for kind, each in violations.items()}
    report = [f"{kind} ({len(each)}): " + "; ".join(each[:SHOWN]) for kind, each in found.items() if each]
    assert not report, "\n".join(["", *report])


def assert_committed_are_answered(
    settings: Settings, client: Client, app: App, workers: Sequence[Worker], kill_after_s: float
) -> None:
    """Kill all workers, assert that every committed request has its answer, and start the workers again.

    Redis is slow before the kill. An offset committed too early would then reach Kafka before its answer reaches Redis.
    """
    for worker in workers:
        worker.wait_ready()
        worker.proxy.slow(0.1)
    app.request_feeds(40, 0.0)
    app.flush()
    time.sleep(kill_after_s)
    for worker in workers:
        worker.kill()
        worker.proxy.resume()
    offsets = invariants.committed(settings)
    records = invariants.read_records(settings, client.redis)
    assert_no_violations(committed_but_unanswered=invariants.committed_but_unanswered(offsets, records))
    app.delete(20)
    for worker in workers:
        worker.start()


def test_every_request_ends_in_exactly_one_status_under_faults(
    settings: Settings, kafka_server: containers.Server, redis_server: containers.Server, tmp_path: Path
) -> None:
    print(f"FORYOU_SEED={SEED}")  # noqa: T201
    draw = random.Random(SEED)
    with Client(settings) as client:
        app = App(settings, client, draw)
        app.write_world()
        with (
            group_of_workers(settings, kafka_server, redis_server, tmp_path) as faults,
            FeedWatcher(settings.redis, app.users) as watcher,
        ):
            for number, round_ in enumerate(plan(random.Random(SEED), ROUNDS, FAULTS_A_ROUND), 1):
                print(f"{datetime.now(UTC):%T} {number}", *round_, sep="\n  ")  # noqa: T201  # to compare with the logs of the workers
                app.block()
                faults.inject(round_, meanwhile=lambda: app.request_feeds(REQUESTS // ROUNDS, ROUND_S))
                if number % KILL_ALL_EVERY == 0:
                    assert_committed_are_answered(settings, client, app, faults.workers, draw.uniform(0.2, 1.0))
            app.flush()
            assert eventually(lambda: not lag_of(settings, "feed-worker")), "requests without an answer remain"
            for worker in faults.workers:
                worker.stop()
        records = invariants.read_records(settings, client.redis)
        print(invariants.statuses(records))  # noqa: T201
        assert_no_violations(
            missing_in_log=invariants.missing_in_log(app, records),
            unfinished=invariants.unfinished(records),
            answered_twice=invariants.answered_twice(records),
            inconsistent_batches=invariants.inconsistent_batches(records),
            wrong_answers=invariants.wrong_answers(app, records),
            wrong_dead_letters=invariants.wrong_dead_letters(records),
            stale_feeds=invariants.stale_feeds(app, records, client.redis),
            unsafe_feeds=invariants.unsafe_feeds(app, records),
            unannounced=watcher.unannounced(records),
            regressions=iter(watcher.regressions),
        )
