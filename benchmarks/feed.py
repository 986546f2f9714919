"""Feed latency and throughput on the embedded stack: from publishing a request to reading its feed from Redis.

`python -m benchmarks.feed [--users N] [--posts N] [--rates 1,5,20] [--seconds S] [--burst N]`. Requests arrive at a
fixed rate whatever the system does (open loop), so that waiting counts; then a burst is drained for the throughput.
Broker, Redis, flows, worker and this client share the machine.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import Measure, print_report, quantiles
from feed_worker.client import Client
from infra.catch_up import wait_for_flows
from infra.progress import Report
from infra.redis import connect, subscription
from infra.settings import Settings
from infra.stack import Stack
from infra.tables import console
from phoenix.world import World, WorldConfig, generate

TIMEOUT_S = 60.0


class Arrivals:
    """Notes when each request's feed could be read: the announcement has come and the document was fetched."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._at: dict[str, float] = {}
        self._pubsub = subscription(self._redis)
        self._pubsub.psubscribe("feed-ready:*")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._pubsub.get_message(timeout=0.1)
            if message and message["type"] == "pmessage":
                user = message["channel"].removeprefix(b"feed-ready:")
                self._redis.get(b"feed:" + user)
                self._at[message["data"].decode()] = time.perf_counter()

    def wait(self, requests: dict[str, float]) -> list[float]:
        """Seconds from publishing to reading of each request that was answered."""
        deadline = time.perf_counter() + TIMEOUT_S
        while time.perf_counter() < deadline and not requests.keys() <= self._at.keys():
            time.sleep(0.01)
        return [self._at[request] - sent for request, sent in requests.items() if request in self._at]

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        self._thread.join()


@contextmanager
def running(world: World) -> Iterator[Settings]:
    """An embedded stack that has taken in a world."""
    with tempfile.TemporaryDirectory() as directory, Stack(Settings(), Path(directory), embedded=True) as stack:
        stack.wait_ready()
        with Client(stack.settings) as client:
            client.publish(world.events())
            with Report(console(stderr=True)) as report:
                wait_for_flows(stack.settings, client.flush(120.0), report, stack.check)
        yield stack.settings


def at_rate(client: Client, arrivals: Arrivals, viewers: list[int], rate: float, seconds: float) -> list[float]:
    """Latencies, in seconds, of requests published at a fixed rate."""
    requests: dict[str, float] = {}
    begin = time.perf_counter()
    for number in range(max(1, int(rate * seconds))):
        time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        sent = time.perf_counter()
        requests[client.request_feed(viewers[number % len(viewers)])] = sent
    return arrivals.wait(requests)


def burst(client: Client, arrivals: Arrivals, viewers: list[int], count: int) -> tuple[float, int]:
    """Feeds a second when `count` requests of as many viewers arrive at once, and how many went unanswered."""
    begin = time.perf_counter()
    requests = {client.request_feed(viewers[number % len(viewers)]): begin for number in range(count)}
    latencies = arrivals.wait(requests)
    return len(latencies) / max(latencies), count - len(latencies)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--posts", type=int, default=5_000)
    parser.add_argument("--rates", default="1,5,10,20", help="requests a second, comma separated")
    parser.add_argument("--seconds", type=float, default=15.0, help="at each rate")
    parser.add_argument("--burst", type=int, default=200)
    arguments = parser.parse_args()
    world = generate(WorldConfig(users=arguments.users, posts=arguments.posts), time.time_ns() // 1_000_000)
    with running(world) as settings, Client(settings) as client:
        arrivals = Arrivals(settings)
        viewers = [int(viewer) for viewer in world.viewers]
        # a new producer's first message waits for its connection and its id, about a second
        arrivals.wait({client.request_feed(viewers[0]): time.perf_counter()})
        measures: list[Measure] = []
        for rate in map(float, arguments.rates.split(",")):
            sys.stderr.write(f"{rate:g} requests a second for {arguments.seconds:g} s\n")
            latencies = [1_000 * each for each in at_rate(client, arrivals, viewers, rate, arguments.seconds)]
            spread = quantiles(latencies)
            lost = float(max(1, int(rate * arguments.seconds)) - len(latencies))
            measures += [
                Measure(f"latency_ms_p50_at_{rate:g}", spread["p50"], "ms", "lower", spread=spread),
                Measure(f"latency_ms_p99_at_{rate:g}", spread["p99"], "ms", "lower", 200.0 if rate == 5 else None),
                Measure(f"lost_at_{rate:g}", lost, "requests", "lower", 0.0),
            ]
        sys.stderr.write(f"a burst of {arguments.burst} requests\n")
        saturated, lost_in_burst = burst(client, arrivals, viewers, arguments.burst)
        measures += [
            Measure("feeds_per_second_saturated", round(saturated, 2), "1/s", "higher", 20.0),
            Measure("lost_in_burst", float(lost_in_burst), "requests", "lower", 0.0),
        ]
        arrivals.stop()
    print_report("feed", vars(arguments) | {"model": settings.model, "stack": "embedded"}, measures)


if __name__ == "__main__":
    main()
