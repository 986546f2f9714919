"""Feed latency and throughput, from the publication of a request to the read of its feed from Redis.

`python -m benchmarks.feed [--model NAME] [--posts N] [--rates 1,5,10,20] [--seconds S] [--burst N] [--quick]`. Kafka
and Redis run in containers. With `--own-servers` the benchmark uses FORYOU_KAFKA and FORYOU_REDIS. It writes posts,
vectors and viewers in the form that flows write, and starts one worker. With `--embedded` it starts the whole stack on
embedded servers and publishes a small generated world instead. All processes share the machine.

Requests arrive in an open loop at a fixed rate, so the latency includes waiting. Rates rise until the p99 exceeds a
second or a feed has another status than `ok`. A closed loop then saturates the worker, and a burst measures the time to
drain.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from benchmarks.feed_world import publish, viewers_of, world_of, write_viewers
from benchmarks.load import Arrivals, closed_loop, open_loop, send, statuses
from benchmarks.report import Measure, print_report, quantiles
from benchmarks.servers import servers, worker
from feed_worker.client import Client
from feed_worker.parameters import PRESETS
from infra.ops.flow_lag import wait_for_flows
from infra.ports.clock import now_ms
from infra.ports.kafka_admin import create_topics, ends_of, lag
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.stack.stack import Stack
from infra.terminal.progress import ProgressReport
from infra.terminal.tables import console
from infra.world import WorldConfig, generate
from phoenix.serving.engine import Phoenix

GOAL_MS = {5.0: 200.0}
GOAL_SATURATED = 20.0
BROKEN_MS = 1_000.0
STAGES_RATE = 5.0
QUICK = {"posts": 50_000, "authors": 5_000, "viewers": 120, "rates": "1,5,20", "seconds": 5.0, "burst": 100}
EMBEDDED = {"model": "nano", "parameters": "foryou", "posts": 5_000, "rates": "1,5,10,20", "burst": 200}


class System(NamedTuple):
    """The system under test: its settings, the viewers of the requests, and the measures so far."""

    settings: Settings
    viewers: Sequence[int]
    measures: list[Measure]


@contextmanager
def embedded(arguments: argparse.Namespace, report: ProgressReport) -> Iterator[System]:
    """An embedded stack that has processed a generated world."""
    world = generate(WorldConfig(users=arguments.viewers, posts=arguments.posts), now_ms())
    settings = Settings(model=arguments.model, parameters=arguments.parameters)
    with TemporaryDirectory() as directory, Stack(settings, Path(directory), embedded=True) as stack:
        with report.step("starting the stack"):
            stack.wait_ready()
        with Client(stack.settings) as client:
            client.publish(world.events())
            wait_for_flows(stack.settings, client.flush(120.0), report, stack.check)
        yield System(stack.settings, [int(viewer) for viewer in world.viewers], [])


@contextmanager
def alone(arguments: argparse.Namespace, report: ProgressReport) -> Iterator[System]:
    """A worker on real servers with data in the form that flows write."""
    world = world_of(arguments.posts, arguments.authors, arguments.seed)
    viewers = viewers_of(world, arguments.viewers, arguments.seed + 1)
    with (
        TemporaryDirectory() as directory,
        servers(arguments.own_servers, model=arguments.model, parameters=arguments.parameters) as settings,
    ):
        create_topics(settings)
        model = Phoenix.seeded(settings.model, settings.model_seed)
        with report.step(f"{arguments.posts} posts with vectors") as advance:
            publish(settings, world, model.version, model.config.embed_dim, advance)
        write_viewers(connect(settings), viewers, lambda *_: None)
        report.print_line("starting the worker …")
        with worker(settings, Path(directory)) as ready_s:
            measures = [Measure("worker_ready_seconds", round(ready_s, 1), "s", "lower")]
            yield System(settings, [viewer.user_id for viewer in viewers], measures)


def rates(
    system: System, client: Client, arrivals: Arrivals, arguments: argparse.Namespace, report: ProgressReport
) -> None:
    """Measure rising rates of an open loop until one is too high."""
    sustained = 0.0
    for rate in map(float, arguments.rates.split(",")):
        with report.step(f"{rate:g} requests a second for {arguments.seconds:g} s"):
            sent = open_loop(client, system.viewers, rate, arguments.seconds)
            answered = arrivals.wait(sent)
        lost, ended = len(sent) - len(answered), statuses(answered)
        spread = quantiles([each.latency_ms for each in answered] or [float("inf")])
        system.measures.extend(
            [
                Measure(f"latency_ms_p50_at_{rate:g}", spread["p50"], "ms", "lower", spread=spread),
                Measure(f"latency_ms_p99_at_{rate:g}", spread["p99"], "ms", "lower", GOAL_MS.get(rate)),
                Measure(f"lost_at_{rate:g}", float(lost), "requests", "lower", 0.0, ended),
            ]
        )
        if lost or spread["p99"] > BROKEN_MS or ended.keys() != {"ok"}:
            break
        sustained = rate
    system.measures.append(Measure("rate_sustained", sustained, "1/s", "higher"))


def saturated(system: System, client: Client, arrivals: Arrivals, outstanding: int, seconds: float) -> None:
    """Measure the maximum throughput in a closed loop: each feed that is read triggers the next request.

    `outstanding` must be small enough that load shedding does not reduce the quality of feeds.
    """
    answered = closed_loop(client, arrivals, system.viewers, outstanding, seconds)
    ended = statuses(answered)
    per_second = (ended.get("ok", 0.0) + ended.get("degraded", 0.0)) / (answered[-1].at - answered[0].sent.at)
    system.measures.append(
        Measure("feeds_per_second_saturated", round(per_second, 2), "1/s", "higher", GOAL_SATURATED, ended)
    )


def burst(system: System, client: Client, arrivals: Arrivals, count: int) -> None:
    """Measure the time to drain `count` simultaneous requests, the lost requests and the remaining consumer lag.

    The worker sheds load: requests that wait long get fewer candidates, and requests that wait too long get no feed.
    The statuses count both.
    """
    begin = time.perf_counter()
    sent = [send(client, system.viewers[number % len(system.viewers)]) for number in range(count)]
    answered = arrivals.wait(sent)
    drained_s = max(each.at for each in answered) - begin
    system.measures.extend(
        [
            Measure("burst_drained_seconds", round(drained_s, 2), "s", "lower"),
            Measure("lost_in_burst", float(count - len(answered)), "requests", "lower", 0.0, statuses(answered)),
            Measure("lag_after_burst", float(_lag(system.settings)), "requests", "lower", 0.0),
        ]
    )


def _lag(settings: Settings) -> int:
    """Consumer lag in requests, after up to 10 s for the commit of the last batch."""
    ends = ends_of(settings, ["feed-requests"])
    deadline = time.perf_counter() + 10.0
    while (behind := lag(settings, "feed-worker", ends)) and time.perf_counter() < deadline:
        time.sleep(0.1)
    return behind


def stages(system: System, client: Client, arrivals: Arrivals, seconds: float) -> None:
    """Measure the time of each stage, from the explanations of requests. The means of the stages add up to the latency.

    `waiting` is the time before the document without work: producer, broker and the worker's queues. `deliver_and_read`
    is the time after it. Components of a stage can run at the same time.
    """
    viewers = system.viewers[: max(1, int(seconds * STAGES_RATE))]
    answered = arrivals.wait(open_loop(client, viewers, STAGES_RATE, len(viewers) / STAGES_RATE, explain=True))
    whole, components, ranked = list[dict[str, float]](), list[dict[str, float]](), list[float]()
    for each in answered:
        feed, explanation = each.feed, client.explain(each.sent.viewer)
        if explanation is None or explanation.request_id != each.sent.request_id:
            continue
        made_ms, worked_ms = float(feed.generated_at - feed.at), sum(explanation.stages_ms.values())
        waited = {"waiting": max(0.0, made_ms - worked_ms), "deliver_and_read": each.latency_ms - made_ms}
        whole.append(explanation.stages_ms | waited)
        components.append(explanation.timings_ms)
        ranked.append(next((float(step.entered) for step in explanation.funnel if step.stage == "selector"), 0.0))
    by_stage, by_component = _means(whole), _means(components)
    system.measures.extend(
        [
            Measure("stage_ms", round(sum(by_stage.values()), 2), "ms", "lower", spread=by_stage),
            Measure("component_ms", round(sum(by_component.values()), 2), "ms", "lower", spread=by_component),
            Measure("candidates_ranked", float(np.mean(ranked)), "candidates", "higher", spread=quantiles(ranked)),
        ]
    )


def _means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in parts for name in each)
    return {name: round(sum(each.get(name, 0.0) for each in parts) / len(parts), 2) for name in names}


def arguments_of(options: Sequence[str] | None) -> argparse.Namespace:
    """Parse options; `--quick` and `--embedded` change defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="small", help="Set the model configuration, such as nano or small")
    parser.add_argument("--parameters", default="classic", choices=PRESETS, help="Set the preset of the parameters")
    parser.add_argument("--posts", type=int, default=1_000_000, help="Set the number of posts")
    parser.add_argument("--authors", type=int, default=100_000, help="Set the number of authors")
    parser.add_argument("--viewers", type=int, default=400, help="Set the number of viewers")
    parser.add_argument(
        "--rates", default="1,5,10,20,40,80,160", help="Set rates in requests per second, comma separated"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="Set the duration of each rate in seconds")
    parser.add_argument("--outstanding", type=int, default=20, help="Set the concurrent requests of the closed loop")
    parser.add_argument("--burst", type=int, default=400, help="Set the requests of the burst")
    parser.add_argument("--seed", type=int, default=5, help="Set the random seed")
    parser.add_argument("--own-servers", action="store_true", help="Use the configured servers, which must be empty")
    parser.add_argument("--embedded", action="store_true", help="Use a whole embedded stack with a small world")
    parser.add_argument("--quick", action="store_true", help="Use few posts and requests")
    first = parser.parse_known_args(options)[0]
    parser.set_defaults(**(QUICK if first.quick else {}) | (EMBEDDED if first.embedded else {}))
    return parser.parse_args(options)


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    arguments = arguments_of(options)
    system_of = embedded if arguments.embedded else alone
    with (
        ProgressReport(console(stderr=True)) as report,
        system_of(arguments, report) as system,
        Client(system.settings) as client,
        Arrivals(system.settings) as arrivals,
    ):
        # the first message of a new producer waits about a second for connection and producer id
        arrivals.wait([send(client, system.viewers[0])])
        rates(system, client, arrivals, arguments, report)
        stages(system, client, arrivals, arguments.seconds)
        with report.step(f"{arguments.outstanding} requests at a time for {arguments.seconds:g} s"):
            saturated(system, client, arrivals, arguments.outstanding, arguments.seconds)
        with report.step(f"a burst of {arguments.burst} requests"):
            burst(system, client, arrivals, arguments.burst)
    vectors = "of the candidate tower" if arguments.embedded else "random, around a point for each author"
    print_report("feed", vars(arguments) | {"vectors": vectors}, system.measures)


if __name__ == "__main__":
    main()
