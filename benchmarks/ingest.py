"""Throughput of the flows in events a second, from Kafka to Kafka and Redis, with recovery and epochs of a second.

`python -m benchmarks.ingest [--posts N] [--engagements N] [--users N] [--repeat N] [--only PARTS]`. The servers run in
containers (the images of the end-to-end tests). With `--own-servers` the benchmark uses FORYOU_KAFKA and FORYOU_REDIS,
and DELETES their topics and keys. It publishes a log first. A rate is the slope of the committed offsets over the ends
of the epochs, while the flow is behind.

Broker, Redis and flow share the machine, so each rate comes with the busy cores of the flow and of the whole machine. A
flow with less than one busy core per process waits for another process; if all cores are busy, for the machine.
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
"""A function from a number of messages to keys and messages."""


class Progress(NamedTuple):
    """The progress of a flow at a moment: committed messages, CPU seconds and memory of its processes."""

    at: float
    committed: int
    cpu_s: float
    rss_bytes: int
    busy_s: float  # busy time of all cores of the machine


class Rate(NamedTuple):
    """Messages a second of wall time and of the flow's CPU time, busy cores, and memory per message."""

    per_second: float
    per_cpu_second: float
    flow_cores: float
    machine_cores: float
    bytes_per_message: float


def bare() -> Dataflow:
    """The baseline flow of posts: source, decode, encode and sink, without state."""
    settings = start(["posts", "thunder-posts"])
    decode, flow = msgspec.json.Decoder(PostCreated).decode, Dataflow("bare")

    def copied(batch: Batch) -> tuple[str, list[Record]]:
        return "0", [
            Record("thunder-posts", b"%d" % (message.offset() or 0), pack(decode(message.value() or b"")))
            for message in batch.messages
        ]

    batches = op.input("posts", flow, KafkaSource(settings, "posts", "flows.posts"))
    op.output("thunder-posts", op.map("copy", batches, copied), EpochSink(settings, ["0"], lambda _: list))
    return flow


# --- measurements ---------------------------------------------------------------------------------------------------


@contextmanager
def running(settings: Settings, flow: str, processes: int) -> Iterator[list[psutil.Process]]:
    """Run a flow in one or several processes, from an empty recovery store."""
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
            raise SystemExit(f"{error}; log of {flow}: {(Path(directory) / 'log').read_text()[-2_000:]}") from None
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
    """Poll the committed offsets of a topic's flow twenty times a second, until all messages are committed.

    Raises:
        TimeoutError: not all messages are committed within TIMEOUT_S.

    """
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
    offsets = ConsumerGroupTopicPartitions(group(settings, f"flows.{topic}"), parts)
    (future,) = broker.list_consumer_group_offsets([offsets]).values()
    return sum(max(0, part.offset) for part in future.result().topic_partitions)


def drained(settings: Settings, flow: str, topic: str, total: int, processes: int, repeat: int) -> list[Rate]:
    """Measure the rate of a flow over its whole topic, `repeat` times from the beginning."""
    rates = []
    for _ in range(repeat):
        emptied(settings, but=topic)
        with running(settings, flow, processes) as started:
            rates.append(rate_of(commits(follow(settings, topic, total, started))))
        sys.stderr.write(f"  {flow}, {processes} process(es): {rates[-1]}\n")
    return rates


def commits(seen: Iterable[Progress]) -> list[Progress]:
    """Return the progress at each commit of the flow; the commits of all partitions of an epoch are one."""
    found: list[Progress] = []
    for progress in seen:
        if progress.committed > (found[-1].committed if found else 0):
            if found and progress.at - found[-1].at < SAME_EPOCH_S:
                found[-1] = found[-1]._replace(committed=progress.committed)
            else:
                found.append(progress)
    return found


def rate_of(committed: list[Progress]) -> Rate:
    """Return the rate from the second to the last but one commit: the flow is warm, and still behind.

    A commit has the offsets that were read at the time of the previous commit.
    """
    if len(committed) < 5:
        raise SystemExit(f"the log took only {len(committed)} epochs; publish more messages for a reliable rate")
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
    """Return the seconds from the end of a burst until a topic's flow has committed all its messages."""
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


# --- measures -------------------------------------------------------------------------------------------------------


def rate_measure(name: str, rates: list[Rate], goal: float | None = None) -> Measure:
    """Return the median rate, with minimum, maximum and the rate per CPU second."""
    found = [rate.per_second for rate in rates]
    spread = {"min": round(min(found), 1), "max": round(max(found), 1)}
    spread["per_cpu_second"] = round(_median(rates, "per_cpu_second"), 1)
    return Measure(name, round(_median(rates, "per_second"), 1), "1/s", "higher", goal, spread)


def cores_measure(name: str, rates: list[Rate]) -> Measure:
    """Return the busy cores of the flow, and of the whole machine."""
    spread = {"whole_machine": round(_median(rates, "machine_cores"), 2)}
    return Measure(name, round(_median(rates, "flow_cores"), 2), "cores", "lower", None, spread)


def _median(rates: list[Rate], field: str) -> float:
    return float(np.median([getattr(rate, field) for rate in rates]))


def measures_of(topic: str, rates: dict[str, list[Rate]]) -> list[Measure]:
    """Return the measures of a topic's flow from the rates of `drained_by_all`."""
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
    """Publish a log once, and measure the baseline flow, the flow in one process and the flow in two."""
    flow = f"flows.{topic}"
    variants = {
        "bare": ("benchmarks.ingest:bare", 1, topic == "posts" and "bare" in parts),
        "one": (flow, 1, topic in parts),
        "two": (flow, 2, topic in parts and "two" in parts),
    }
    emptied(settings)
    sys.stderr.write(f"publishing {total} {topic}\n")
    publish(settings, topic, messages)
    return {
        which: drained(settings, name, topic, total, processes, repeat)
        for which, (name, processes, is_selected) in variants.items()
        if is_selected
    }


# --- servers --------------------------------------------------------------------------------------------------------


def emptied(settings: Settings, but: str = "") -> None:
    """Delete all keys, offsets and topics, except the topic `but`, and create the topics again."""
    broker = admin(settings)
    known = [name for name in TOPICS if name in broker.list_topics(timeout=10).topics and name != but]
    if known:
        for future in broker.delete_topics(known, operation_timeout=30).values():
            future.result()
        time.sleep(2.0)  # the broker deletes topics shortly after its reply
    name_of_groups = [group(settings, flow) for flow in ("flows.posts", "flows.engagements")]
    for future in broker.delete_consumer_groups(name_of_groups).values():
        if future.exception() is None:
            future.result()
    create_topics(settings)
    connect(settings).flushdb()


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--posts", type=int, default=2_500_000, help="Set the number of posts")
    parser.add_argument("--engagements", type=int, default=2_000_000, help="Set the number of engagements")
    parser.add_argument("--users", type=int, default=100_000, help="Set the number of users")
    parser.add_argument("--repeat", type=int, default=3, help="Set the number of measurements of each rate")
    parser.add_argument("--burst-seconds", type=float, default=10.0, help="Set the duration of the burst in seconds")
    parser.add_argument(
        "--burst-rate", type=float, default=50_000.0, help="Set the rate of the burst in messages per second"
    )
    parser.add_argument("--only", default="bare,posts,engagements,two,burst", help="Select parts, comma separated")
    parser.add_argument("--own-servers", action="store_true", help="Use the configured servers and delete their data")
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
