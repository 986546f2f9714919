"""Three workers, and all that goes wrong around them: every request ends in exactly one status.

What goes wrong, and when, is drawn from a seed that is printed. `make test` runs this short; FORYOU_SOAK=1
(`make soak`) runs the same code longer, and FORYOU_SEED=N the same faults again.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from feed_worker.client import Client
from infra.ports.settings import Settings
from tests.e2e import containers, evidence
from tests.e2e.asking import App
from tests.e2e.conftest import eventually
from tests.e2e.faults import Worker, group_of_workers, plan
from tests.e2e.processes import behind
from tests.e2e.watcher import Watcher

SOAK = bool(os.environ.get("FORYOU_SOAK"))
SEED = int(os.environ.get("FORYOU_SEED") or random.randrange(1_000_000))
REQUESTS, ROUNDS, AT_ONCE = (5_000, 24, 2) if SOAK else (360, 3, 3)
STOP_AFTER = 4 if SOAK else 3
"""Rounds after which everything is stopped, and what is committed is held against what is written."""
ROUND_S = 6.0
SHOWN = 5


def assert_none(**wrong: Iterator[str]) -> None:
    """Say how much is wrong of each kind, and the first few of it."""
    found = {kind: list(each) for kind, each in wrong.items()}
    said = [f"{kind} ({len(each)}): " + "; ".join(each[:SHOWN]) for kind, each in found.items() if each]
    assert not said, "\n".join(["", *said])


def assert_behind_what_is_written(
    settings: Settings, client: Client, app: App, workers: Sequence[Worker], moment_s: float
) -> None:
    """Kill all workers: with nobody writing, nothing is committed whose answer is not there. Start them again.

    Their Redis is slow just then, so that answers are on their way for longer than it takes to commit.
    """
    for worker in workers:
        worker.wait_ready()
        worker.proxy.slow(0.1)
    app.ask(40, 0.0)
    app.flush()
    time.sleep(moment_s)
    for worker in workers:
        worker.kill()
        worker.proxy.flow()
    offsets = evidence.committed(settings)
    assert_none(run_ahead=evidence.run_ahead(offsets, evidence.written(settings, client.redis)))
    app.delete(20)
    for worker in workers:
        worker.start()


def test_every_request_ends_in_exactly_one_status_whatever_goes_wrong(
    settings: Settings, kafka_server: containers.Server, redis_server: containers.Server, tmp_path: Path
) -> None:
    print(f"FORYOU_SEED={SEED}")  # noqa: T201
    draw = random.Random(SEED)
    with Client(settings) as client:
        app = App(settings, client, draw)
        app.settle()
        with (
            group_of_workers(settings, kafka_server, redis_server, tmp_path) as faults,
            Watcher(settings.redis, app.users) as watcher,
        ):
            for number, round_ in enumerate(plan(random.Random(SEED), ROUNDS, AT_ONCE), 1):
                print(f"{datetime.now(UTC):%T} {number}", *round_, sep="\n  ")  # noqa: T201  # beside the workers' logs
                app.block()
                faults.happen(round_, meanwhile=lambda: app.ask(REQUESTS // ROUNDS, ROUND_S))
                if number % STOP_AFTER == 0:
                    assert_behind_what_is_written(settings, client, app, faults.workers, draw.uniform(0.2, 1.0))
            app.flush()
            assert eventually(lambda: not behind(settings, "feed-worker")), "requests are left"
            for worker in faults.workers:
                worker.stop()
        found = evidence.written(settings, client.redis)
        print(evidence.statuses(found))  # noqa: T201
        assert_none(
            unpublished=evidence.unpublished(app, found),
            unfinished=evidence.unfinished(found),
            contradicted=evidence.contradicted(found),
            split=evidence.split(found),
            misjudged=evidence.misjudged(app, found),
            misfiled=evidence.misfiled(found),
            outdated=evidence.outdated(found, client.redis),
            unsafe=evidence.unsafe(app, found),
            unannounced=watcher.unannounced(found),
            spoiled=iter(watcher.spoiled),
        )
