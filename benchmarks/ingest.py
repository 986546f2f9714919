"""Events a second from Kafka through a flow to Kafka and Redis, with recovery on and epochs of a second.

`python -m benchmarks.ingest [--posts N] [--engagements N] [--users N] [--repeat N] [--only PARTS]`. The servers run in
containers (the images of the end-to-end tests), or with `--own-servers` where FORYOU_KAFKA and FORYOU_REDIS point:
their topics and keys are then DELETED. A log is published first; a rate is the slope of what the flow has read and
finished by the ends of its epochs, while it is behind. Broker, Redis and flow share the machine: beside a rate stand
the cores that the flow's processes kept busy, and all cores that were busy. A flow that uses less than a core for each
process waits for something else; where all cores are busy, that is the machine.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import bytewax.operators as op
import msgspec
import numpy as np
import psutil
from bytewax.dataflow import Dataflow
from bytewax.recovery import init_db_dir
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.ingest_log import engagements, posts, publish
from benchmarks.report import Measure, print_report
from benchmarks.servers import servers
from flows.process import start
from flows.sinks import EpochSink
from flows.sources import Batch, KafkaSource
from infra.ports.kafka_admin import admin, create_topics
from infra.ports.kafka_config import group
from infra.ports.producer import Record
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.ports.topics import TOPICS
from thunder_ingest.events import PostCreated, pack

TIMEOUT_S = 300.0
SAME_EPOCH_S = 0.4
GOALS = {"posts": 150_000.0, "engagements": 100_000.0}
BURST_GOAL_S = 5.0
Log = Callable[[int], Iterator[tuple[bytes, bytes]]]
"""So many messages with their keys."""


class Progress(NamedTuple):
    """How far a flow had come at a moment: messages committed; of its processes CPU seconds and memory."""

    at: float
    committed: int
    cpu_s: float
    rss_bytes: int
    busy_s: float  # of all cores of the machine


class Rate(NamedTuple):
    """Messages a second of wall time and of the flow's CPU time; cores busy meanwhile; memory that a message took."""

    per_second: float
    per_cpu_second: float
    flow_cores: float
    machine_cores: float
    bytes_per_message: float


def bare() -> Dataflow:
    """What a flow of posts would be that did nothing: source, decode, encode, sink. Measured for comparison."""
    settings = start(["posts", "thunder-posts"])
    decode, flow = msgspec.json.Decoder(PostCreated).decode, Dataflow("bare")

    def copied(batch: Batch) -> tuple[str, list[Record]]:
        return batch.part, [
            Record("thunder-posts", b"%d" % (message.offset() or 0), pack(decode(message.value() or b"")))
            for message in batch.messages
        ]

    batches = op.input("posts", flow, KafkaSource(settings, "posts", "flows.posts"))
    op.output("thunder-posts", op.map("copy", batches, copied), EpochSink(settings, "posts"))
    return flow


# --- what is measured -----------------------------------------------------------------------------------------------


@contextmanager
def running(settings: Settings, flow: str, processes: int) -> Iterator[list[psutil.Process]]:
    """A flow in one process or in several, from an empty recovery store."""
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("ab") as log:
        init_db_dir(Path(directory), processes)
        command = [sys.executable, "-m", "bytewax.run", "-r", directory, "-s", "1", "-b", "0", flow]
        started = [
            subprocess.Popen([*command, *cluster], env=os.environ | settings.environment(), stdout=log, stderr=log)
            for cluster in _clusters(processes)
        ]
        try:
            yield [psutil.Process(process.pid) for process in started]
        except TimeoutError as error:
            raise SystemExit(f"{error}; {flow} said: {(Path(directory) / 'log').read_text()[-2_000:]}") from None
        finally:
            for process in started:
                process.kill()
                process.wait()


def _clusters(processes: int) -> list[list[str]]:
    if processes == 1:
        return [[]]
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(processes)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = ";".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    return [["-i", str(number), "-a", addresses] for number in range(processes)]


def follow(settings: Settings, topic: str, total: int, processes: list[psutil.Process]) -> Iterator[Progress]:
    """What a topic's flow has committed, looked at twenty times a second, until it is all that was published."""
    broker, deadline = admin(settings), time.perf_counter() + TIMEOUT_S
    while True:
        committed = _committed(broker, settings, topic)
        yield _progress(committed, processes)
        if committed >= total:
            return
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{committed} messages of {total} committed in {TIMEOUT_S:g} s")
        time.sleep(0.05)


def _progress(committed: int, processes: list[psutil.Process]) -> Progress:
    machine = psutil.cpu_times()
    return Progress(
        time.perf_counter(),
        committed,
        sum(sum(process.cpu_times()[:2]) for process in processes),
        sum(process.memory_info().rss for process in processes),
        sum(machine) - machine.guest - machine.guest_nice - machine.idle - machine.iowait,
    )


def _committed(broker: AdminClient, settings: Settings, topic: str) -> int:
    parts = [TopicPartition(topic, part) for part in range(settings.partitions)]
    asked = ConsumerGroupTopicPartitions(group(settings, f"flows.{topic}"), parts)
    (future,) = broker.list_consumer_group_offsets([asked]).values()
    return sum(max(0, part.offset) for part in future.result().topic_partitions)


def drained(settings: Settings, flow: str, topic: str, total: int, processes: int, repeat: int) -> list[Rate]:
    """The rates at which a flow works off what stands in its topic, each time from the beginning."""
    rates = []
    for _ in range(repeat):
        emptied(settings, but=topic)
        with running(settings, flow, processes) as started:
            rates.append(rate_of(commits(follow(settings, topic, total, started))))
        sys.stderr.write(f"  {flow}, {processes} process(es): {rates[-1]}\n")
    return rates


def commits(seen: Iterable[Progress]) -> list[Progress]:
    """The moments at which a flow committed, those of all partitions of an epoch as one."""
    found: list[Progress] = []
    for progress in seen:
        if progress.committed > (found[-1].committed if found else 0):
            if found and progress.at - found[-1].at < SAME_EPOCH_S:
                found[-1] = found[-1]._replace(committed=progress.committed)
            else:
                found.append(progress)
    return found


def rate_of(committed: list[Progress]) -> Rate:
    """The rate from the second commit to the last but one: the flow is warm then, and has more to do.

    A commit names what had been read when the one before it was made.
    """
    if len(committed) < 5:
        raise SystemExit(f"worked off in {len(committed)} epochs: publish more for a rate that means something")
    done = committed[-2].committed - committed[1].committed
    begin, end = committed[0], committed[-3]
    wall_s, cpu_s = end.at - begin.at, end.cpu_s - begin.cpu_s
    return Rate(
        done / wall_s,
        done / cpu_s,
        cpu_s / wall_s,
        (end.busy_s - begin.busy_s) / wall_s,
        (end.rss_bytes - begin.rss_bytes) / done,
    )


def burst_lag_s(settings: Settings, topic: str, messages: Log, seconds: float, rate: float) -> float:
    """Seconds from the end of a burst until a topic's flow has committed all of it."""
    before, burst = 1_000, int(seconds * rate)
    emptied(settings)
    publish(settings, topic, messages(before))
    with running(settings, f"flows.{topic}", 1) as started:
        for _ in follow(settings, topic, before, started):
            pass
        publish(settings, topic, messages(burst), rate)
        ended = time.perf_counter()
        *_, last = follow(settings, topic, before + burst, started)
        return last.at - ended


# --- what is reported -----------------------------------------------------------------------------------------------


def rate_measure(name: str, rates: list[Rate], goal: float | None = None) -> Measure:
    """The median rate, with the least and the greatest and those of CPU time beside it."""
    found = [rate.per_second for rate in rates]
    spread = {"min": round(min(found), 1), "max": round(max(found), 1)}
    spread["per_cpu_second"] = round(_median(rates, "per_cpu_second"), 1)
    return Measure(name, round(_median(rates, "per_second"), 1), "1/s", "higher", goal, spread)


def cores_measure(name: str, rates: list[Rate]) -> Measure:
    """Cores that the flow kept busy, and all that were busy."""
    spread = {"whole_machine": round(_median(rates, "machine_cores"), 2)}
    return Measure(name, round(_median(rates, "flow_cores"), 2), "cores", "lower", None, spread)


def _median(rates: list[Rate], field: str) -> float:
    return float(np.median([getattr(rate, field) for rate in rates]))


def measures_of(topic: str, rates: dict[str, list[Rate]]) -> list[Measure]:
    """The measures of a topic's flow, by what `drained_by_all` names."""
    names = {"bare": "bare_{}", "one": "{}", "two": "{}_by_two_processes"}
    measures = []
    for which, found in rates.items():
        name = names[which].format(topic)
        goal = GOALS[topic] if which == "one" else None
        measures += [rate_measure(f"{name}_per_second", found, goal), cores_measure(f"{name}_cores", found)]
    if topic == "posts" and "one" in rates:
        grown = round(_median(rates["one"], "bytes_per_message"))
        measures.append(Measure("posts_flow_bytes_per_post", grown, "bytes", "lower"))
    return measures


def drained_by_all(
    settings: Settings, topic: str, messages: Iterator[tuple[bytes, bytes]], total: int, repeat: int, parts: set[str]
) -> dict[str, list[Rate]]:
    """Publish a log once and let it be worked off by a flow that does nothing, by one process, by two."""
    flow = f"flows.{topic}"
    wanted = {
        "bare": ("benchmarks.ingest:bare", 1, topic == "posts" and "bare" in parts),
        "one": (flow, 1, topic in parts),
        "two": (flow, 2, topic in parts and "two" in parts),
    }
    emptied(settings)
    sys.stderr.write(f"publishing {total} {topic}\n")
    publish(settings, topic, messages)
    return {
        which: drained(settings, name, topic, total, processes, repeat)
        for which, (name, processes, is_wanted) in wanted.items()
        if is_wanted
    }


# --- servers --------------------------------------------------------------------------------------------------------


def emptied(settings: Settings, but: str = "") -> None:
    """Topics, all but one, and keys as on the first day."""
    broker = admin(settings)
    known = [name for name in TOPICS if name in broker.list_topics(timeout=10).topics and name != but]
    if known:
        for future in broker.delete_topics(known, operation_timeout=30).values():
            future.result()
        time.sleep(2.0)  # the broker forgets them a moment after it says so
    name_of_groups = [group(settings, flow) for flow in ("flows.posts", "flows.engagements")]
    for future in broker.delete_consumer_groups(name_of_groups).values():
        if future.exception() is None:
            future.result()
    create_topics(settings)
    connect(settings).flushdb()


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=2_500_000)
    parser.add_argument("--engagements", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3, help="how often each rate is measured")
    parser.add_argument("--burst-seconds", type=float, default=10.0)
    parser.add_argument("--burst-rate", type=float, default=50_000.0, help="messages a second")
    parser.add_argument(
        "--only", default="bare,posts,engagements,two,burst", help="of bare, posts, engagements, two, burst"
    )
    parser.add_argument("--own-servers", action="store_true", help="those of the settings; they are emptied")
    arguments = parser.parse_args(options)
    parts, random = set(arguments.only.split(",")), np.random.default_rng(7)
    totals: dict[str, int] = {"posts": arguments.posts, "engagements": arguments.engagements}
    logs: dict[str, Log] = {
        "posts": lambda count: posts(count, random),
        "engagements": lambda count: engagements(count, arguments.users, random),
    }
    measures, ratios = list[Measure](), dict[str, float]()
    with servers(arguments.own_servers) as settings:
        for topic, log in logs.items():
            if topic in parts or (topic == "posts" and "bare" in parts):
                total = totals[topic]
                rates = drained_by_all(settings, topic, log(total), total, arguments.repeat, parts)
                measures += measures_of(topic, rates)
                if "two" in rates:
                    two, one = (_median(rates[which], "per_second") for which in ("two", "one"))
                    ratios[topic] = round(two / one, 2)
        if ratios:
            measures.append(Measure("two_process_ratio", min(ratios.values()), "", "higher", None, ratios))
        if "burst" in parts:
            lags = {
                topic: round(burst_lag_s(settings, topic, log, arguments.burst_seconds, arguments.burst_rate), 2)
                for topic, log in logs.items()
            }
            measures.append(Measure("burst_lag_seconds", max(lags.values()), "s", "lower", BURST_GOAL_S, lags))
    print_report("ingest", vars(arguments), measures)


if __name__ == "__main__":
    main()
