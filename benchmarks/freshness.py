"""Freshness: the time from an event to the first feed with its effect, under background load.

`python -m benchmarks.freshness [--model NAME] [--probes N] [--threads N] [--posts-per-second N]
[--engagements-per-second N] [--quick]`. Flows and a worker run on Kafka and Redis in containers. With `--own-servers`
the benchmark uses FORYOU_KAFKA and FORYOU_REDIS. A probe publishes a single event and requests feeds until one shows
its effect (`benchmarks.probes`). If the event removes a post, a second after the event another feed must not have the
post. All processes share the machine.
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
from infra.terminal.progress import ProgressReport
from infra.terminal.tables import console

GOAL_MS = 1_000.0
WARM_S = 3.0  # background load before the first probe
TOPICS = ("posts", "engagements")
Kind: TypeAlias = Callable[[Probes], Found]
Seen: TypeAlias = tuple[Kind, Found | NotSeen]


@contextmanager
def running(arguments: argparse.Namespace, report: ProgressReport) -> Iterator[Stack]:
    """Start flows, a worker and the background load."""
    with (
        TemporaryDirectory() as directory,
        servers(arguments.own_servers, model=arguments.model, parameters=arguments.parameters) as settings,
        Stack(settings, Path(directory), embedded=False) as stack,
        Children(Path(directory) / "logs") as children,
    ):
        with report.step("starting flows and worker"):
            stack.wait_ready()
        rates = (arguments.posts_per_second, arguments.engagements_per_second)
        command = [sys.executable, "-m", "benchmarks.background", *map(str, rates)]
        children.start("background", command, settings.environment())
        time.sleep(WARM_S)
        yield stack
        children.check()


def probed(probes: Probes, kinds: Sequence[Kind], advance: Callable[[], None]) -> list[Seen]:
    """Run probes one after the other and return their results."""
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
    client: Client, arrivals: Arrivals, stack: Stack, arguments: argparse.Namespace, report: ProgressReport
) -> list[Seen]:
    """Run all probes in threads, in random order, and return their results."""
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
    """Return the times by kind of probe, and the counts of violations and timeouts."""
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
    """Parse options; `--quick` changes the default of `--probes`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="nano", help="Set the model configuration, such as nano or small")
    parser.add_argument("--parameters", default="foryou", help="Set the preset of the parameters")
    parser.add_argument("--probes", type=int, default=120, help="Set the number of probes of each kind")
    parser.add_argument("--threads", type=int, default=4, help="Set the number of concurrent probes")
    parser.add_argument("--posts-per-second", type=float, default=1_000.0, help="Set the background posts per second")
    parser.add_argument(
        "--engagements-per-second", type=float, default=5_000.0, help="Set the background engagements per second"
    )
    parser.add_argument("--own-servers", action="store_true", help="Use the configured servers, which must be empty")
    parser.add_argument("--quick", action="store_true", help="Run 24 probes of each kind")
    if parser.parse_known_args(options)[0].quick:
        parser.set_defaults(probes=24)
    return parser.parse_args(options)


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    arguments = arguments_of(options)
    with (
        ProgressReport(console(stderr=True)) as report,
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
