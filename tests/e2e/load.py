"""An app under load while servers fail: 500 events and 5 requests a second, and the checks that follow."""

import itertools
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple
from urllib.error import HTTPError

import redis

from feed_worker.client import Client, FeedTimeout, NoFeed
from infra.ports.clock import now_ms
from infra.ports.errors import RedisUnreachable
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.world import WorldConfig, generate
from tests.e2e.conftest import LONG_S, POLL_S, eventually
from tests.e2e.derived_state import actual_state, expected_state
from tests.e2e.processes import Process, lag_of, outputs, running, stop
from thunder_ingest.events import Event, unpack_feed_served

NAMES: Final = ("flows.posts", "flows.engagements", "feed_worker")
EVENTS_A_SECOND: Final = 500
REQUESTS_A_SECOND: Final = 5
FRESH_S: Final = 1.0
_ids: Final = itertools.count(900_000_001)


class Load:
    """An app in a thread of its own: events and feed requests at a steady rate."""

    def __init__(self, settings: Settings, events: Sequence[Event]) -> None:
        self._settings, self._events, self.requests = settings, iter(events), list[str]()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.published = 0

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._settings) as client:
            while not self._stopping.wait(1 / REQUESTS_A_SECOND):
                for _ in range(EVENTS_A_SECOND // REQUESTS_A_SECOND):
                    if (event := next(self._events, None)) is not None:
                        client.publish(event)
                        self.published += 1
                self.requests.append(client.request_feed(1 + len(self.requests) % 50))
            client.flush(LONG_S)


class Trial(NamedTuple):
    """Running processes under load."""

    settings: Settings
    processes: dict[str, Process]
    client: Client
    load: Load

    def waits(self, server: str) -> bool:
        """True if readiness and metrics of the worker report an outage of a server."""
        return self._get("/readyz")[0] == HTTPStatus.SERVICE_UNAVAILABLE and (
            f'foryou_outage{{server="{server}"}} 1.0' in self._get("/metrics")[1]
        )

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.http_port}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def fails(self, server: str, seconds: float) -> None:
        """Wait until the worker reports an outage, and some seconds more."""
        assert eventually(lambda: self.waits(server)), outputs(self.processes)
        time.sleep(seconds)

    def answered_after_s(self, since: float) -> float:
        """The time from `since` until a new request is answered."""
        while True:
            with suppress(FeedTimeout, NoFeed, RedisUnreachable):
                self.client.wait(1, self.client.request_feed(1), 5.0)
                return time.monotonic() - since

    def shown_after_s(self) -> float:
        """The time until a new post of a followed author is in a feed."""
        viewer, author, post_id = (next(_ids) for _ in range(3))
        self.client.publish({"type": "follow", "user_id": viewer, "target_id": author, "at": now_ms()})
        begun = time.monotonic()
        post = {"type": "post_created", "post_id": post_id, "author_id": author, "text": "new", "at": now_ms()}
        self.client.publish(post)
        while time.monotonic() - begun < LONG_S:
            with suppress(FeedTimeout, NoFeed, RedisUnreachable):
                feed = self.client.wait(viewer, self.client.request_feed(viewer, in_network_only=True), 5.0)
                if str(post_id) in {item.post_id for item in feed.items}:
                    break
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def report(self, name: str, since: float) -> None:
        """Print the times of the first answer and of the first post shown within FRESH_S, and the load of the machine.

        A busy machine may never be as fast: the search ends after a minute.
        """
        answered_s, shown = self.answered_after_s(since), list[float]()
        while time.monotonic() - since < 60 and not (shown and shown[-1] < FRESH_S):
            shown.append(self.shown_after_s())
        times = ", ".join(f"{each:.1f}" for each in shown)
        print(  # noqa: T201
            f"{name}: first answer after {answered_s:.1f} s; new posts shown after {times} s, the last of them at "
            f"{time.monotonic() - since:.1f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )

    def check(self) -> None:
        """Assert that no process has ended."""
        assert not any(process.has_ended() for process in self.processes.values()), outputs(self.processes)


Fault = Callable[[Trial], float]
"""Makes a server fail and return; the result is the time of its return, in s of `time.monotonic`."""


@contextmanager
def under_load(settings: Settings, directory: Path, valkey: redis.Redis, engagements: int) -> Iterator[Trial]:
    """Flows and a worker under load. At the end: every request is answered, and the state is that of the log."""
    world = generate(WorldConfig(seed=7, users=300, posts=engagements // 12, engagements=engagements), now_ms())
    with running(settings, directory, *NAMES) as processes, Client(settings) as client:
        with Load(settings, list(world.events())) as load:
            trial = Trial(settings, processes, client, load)
            trial.answered_after_s(time.monotonic())
            yield trial
        print(f"{load.published} events, {len(load.requests)} requests")  # noqa: T201

        def all_answered() -> bool:
            served = scan(settings, ["feeds-served"])
            ended = {unpack_feed_served(each.value() or b"").request_id for batch in served for each in batch}
            return ended.issuperset(load.requests)

        assert eventually(all_answered), outputs(processes)
        assert eventually(lambda: not any(lag_of(settings, name) for name in NAMES[:2])), outputs(processes)
        trial.check()
        stop(processes)
    found, expected = actual_state(settings), expected_state(settings, valkey)
    for field in found._fields:
        assert getattr(found, field) == getattr(expected, field), field


def survive(trial: Trial, *faults: Fault) -> None:
    """Inject faults one after the other; report the times until answers and fresh posts are back."""
    for fault in faults:
        time.sleep(3.0)
        returned = fault(trial)
        trial.report(getattr(fault, "__name__", str(fault)), returned)
        trial.check()
