"""How soon a feed shows what has happened: flows and a worker on real servers, under a background of posts and actions.

`python -m benchmarks.freshness [--model NAME] [--probes N] [--threads N] [--posts-per-second N]
[--engagements-per-second N] [--quick]`. Kafka and Redis run in containers, or with `--own-servers` where FORYOU_KAFKA
and FORYOU_REDIS point. Single events are published, of every kind and by many people, and feeds requested until one
shows the event's effect (`benchmarks.probes`); for what must disappear, once more a second after the event. All share
the machine.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from benchmarks.load import Arrivals
from benchmarks.probes import CUTS, KINDS, Found, NotSeen, Probes
from benchmarks.report import Measure, print_report, quantiles
from benchmarks.servers import servers
from feed_worker.client import Client
from infra.ops.flow_lag import wait_for_flows
from infra.ports.kafka_admin import ends_of
from infra.ports.settings import Settings
from infra.stack.processes import Children
from infra.stack.stack import Stack
from infra.terminal.progress import Report
from infra.terminal.tables import console

GOAL_MS = 1_000.0
WARM_S = 3.0  # of background before anybody is asked
TOPICS = ("posts", "engagements")
Kind: TypeAlias = Callable[[Probes], Found]
Seen: TypeAlias = tuple[Kind, Found | NotSeen]


@contextmanager
def running(arguments: argparse.Namespace, report: Report) -> Iterator[Stack]:
    """Flows and a worker on servers, with the background beside them."""
    with (
        TemporaryDirectory() as directory,
        servers(arguments.own_servers, model=arguments.model, parameters=arguments.parameters) as settings,
        Stack(settings, Path(directory), embedded=False) as stack,
        Children(Path(directory) / "logs") as children,
    ):
        with report.step("flows and worker get ready"):
            stack.wait_ready()
        rates = (arguments.posts_per_second, arguments.engagements_per_second)
        command = [sys.executable, "-m", "benchmarks.background", *map(str, rates)]
        children.start("background", command, settings.environment())
        time.sleep(WARM_S)
        yield stack
        children.check()


def probed(probes: Probes, kinds: Sequence[Kind], advance: Callable[[], None]) -> list[Seen]:
    """What came of a sequence of probes."""
    seen: list[Seen] = []
    for kind in kinds:
        try:
            seen.append((kind, kind(probes)))
        except NotSeen as error:
            sys.stderr.write(f"{kind.__name__}: {error}\n")
            seen.append((kind, error))
        advance()
    return seen


def all_probed(
    client: Client, arrivals: Arrivals, stack: Stack, arguments: argparse.Namespace, report: Report
) -> list[Seen]:
    """What came of all probes, in some threads that take turns with the kinds."""
    each = -(-arguments.probes // arguments.threads)
    threads = [Probes(client, arrivals, len(CUTS) * each) for _ in range(arguments.threads)]
    for probes in threads:
        probes.prepare()
    wait_for_flows(stack.settings, client.flush(60.0), report, stack.check)
    with report.step(f"{each * len(threads)} probes of each kind") as advance:
        done = iter(range(1, 1 + each * len(threads) * len(KINDS)))
        total = each * len(threads) * len(KINDS)
        orders = [random.Random(seed).sample(KINDS * each, len(KINDS) * each) for seed in range(len(threads))]
        with ThreadPoolExecutor(len(threads)) as pool:
            found = [
                pool.submit(probed, probes, order, lambda: advance(next(done), total))
                for probes, order in zip(threads, orders, strict=True)
            ]
            return [seen for future in found for seen in future.result()]


def measures_of(seen: Sequence[Seen]) -> list[Measure]:
    """The times by kind, and what should not have been."""
    measures = []
    for kind in KINDS:
        times = [found.ms for which, found in seen if which is kind and isinstance(found, Found)]
        spread = quantiles(times or [float("inf")])
        measures.append(Measure(f"{kind.__name__}_ms_p99", spread["p99"], "ms", "lower", GOAL_MS, spread))
    violations = sum(found.violations for _, found in seen if isinstance(found, Found))
    not_seen = sum(isinstance(found, NotSeen) for _, found in seen)
    measures.append(Measure("violations", float(violations), "posts", "lower", 0.0))
    measures.append(Measure("not_seen", float(not_seen), "probes", "lower", 0.0))
    return measures


def arguments_of(options: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; `--quick` stands where nothing else was said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help="what two cores can embed a thousand posts a second with")
    parser.add_argument("--parameters", default="foryou")
    parser.add_argument("--probes", type=int, default=120, help="of each kind")
    parser.add_argument("--threads", type=int, default=4, help="probes at the same time")
    parser.add_argument("--posts-per-second", type=float, default=1_000.0)
    parser.add_argument("--engagements-per-second", type=float, default=5_000.0)
    parser.add_argument("--own-servers", action="store_true", help="those of the settings, which must be empty")
    parser.add_argument("--quick", action="store_true", help="few probes")
    if parser.parse_known_args(options)[0].quick:
        parser.set_defaults(probes=24)
    return parser.parse_args(options)


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    arguments = arguments_of(options)
    with (
        Report(console(stderr=True)) as report,
        running(arguments, report) as stack,
        Client(stack.settings) as client,
        Arrivals(stack.settings) as arrivals,
    ):
        before, began = _published(stack.settings), time.monotonic()
        seen = all_probed(client, arrivals, stack, arguments, report)
        after, seconds = _published(stack.settings), time.monotonic() - began
    measures = measures_of(seen)
    for topic in TOPICS:
        rate = (after[topic] - before[topic]) / seconds
        measures.append(Measure(f"background_{topic}_per_second", round(rate, 1), "1/s", "higher"))
    print_report("freshness", vars(arguments), measures)


def _published(settings: Settings) -> dict[str, int]:
    ends = ends_of(settings, TOPICS, idle_s=0.0)
    return {topic: sum(end for (name, _), end in ends.items() if name == topic) for topic in TOPICS}


if __name__ == "__main__":
    main()
