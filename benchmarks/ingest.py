"""Events a second from Kafka through a flow to Kafka and Redis, with recovery on and epochs of a second.

`python -m benchmarks.ingest [--posts N] [--engagements N] [--users N] [--burst-seconds S] [--burst-rate N]`. The
servers run in containers (the images of the end-to-end tests), or with `--own-servers` where FORYOU_KAFKA and
FORYOU_REDIS point: their topics and keys are then DELETED. A log is published first; a rate is the slope of what the
flow has read and finished by the ends of its epochs, with the CPU time of its processes beside it. Broker, Redis and
flow share the machine.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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

from benchmarks.report import Measure, print_report
from flows.kafka import Batch, KafkaSink, KafkaSource, start
from infra.kafka import Publisher, Record, group
from infra.kafka_admin import admin, create_topics
from infra.redis import connect
from infra.settings import Settings, load
from infra.topics import TOPICS
from thunder_ingest.events import Engagement, Event, Impression, PostCreated, encode, pack

WORDS_PER_POST = 12
ENGAGED_POSTS = 20_000
FIRST_POST = 10**12
TIMEOUT_S = 300.0
SAME_EPOCH_S = 0.4
Log = Callable[[int], Iterator[tuple[bytes, bytes]]]
"""So many messages with their keys."""


class Progress(NamedTuple):
    """How far a flow had come at a moment: messages committed, CPU seconds used by its processes."""

    at: float
    committed: int
    cpu_s: float


class Rate(NamedTuple):
    """Messages a second of wall time and of CPU time (all threads of all processes of the flow)."""

    per_second: float
    per_cpu_second: float


# --- what is published ----------------------------------------------------------------------------------------------


def posts(count: int, random: np.random.Generator) -> Iterator[tuple[bytes, bytes]]:
    """Original posts of twelve words, as keys and messages."""
    vocabulary = np.array(
        ["".join(map(chr, random.integers(97, 123, length))) for length in random.integers(2, 10, 5000)]
    )
    texts = vocabulary[random.zipf(1.2, (count, WORDS_PER_POST)) % len(vocabulary)].tolist()
    authors = random.integers(1, 50_000, count).tolist()
    for index, (author, words) in enumerate(zip(authors, texts, strict=True)):
        post = PostCreated(post_id=FIRST_POST + index, author_id=author, at=_now_ms(), text=" ".join(words), lang="en")
        yield b"%d" % author, encode(post)


def engagements(count: int, users: int, random: np.random.Generator) -> Iterator[tuple[bytes, bytes]]:
    """Impressions and favorites, half each, of users who are all as active, on posts of skewed popularity."""
    viewers = random.integers(1, users + 1, count).tolist()
    viewed = (FIRST_POST + random.zipf(1.1, count) % ENGAGED_POSTS).tolist()
    for index, (user, post_id) in enumerate(zip(viewers, viewed, strict=True)):
        author, at = post_id % 50_000 + 1, _now_ms()
        event: Event = Impression(user_id=user, post_id=post_id, author_id=author, at=at, surface="home")
        if index % 2:
            event = Engagement(user_id=user, post_id=post_id, author_id=author, at=at, action="favorite")
        yield b"%d" % user, encode(event)


def publish(settings: Settings, topic: str, messages: Iterator[tuple[bytes, bytes]], rate: float = np.inf) -> None:
    """Publish messages, `rate` a second at most, and wait for their delivery."""
    publisher, begin = Publisher(settings, **{"queue.buffering.max.messages": 1_000_000}), time.perf_counter()
    for index, (key, value) in enumerate(messages):
        publisher.publish([Record(topic, key, value)])
        if index % 1_000 == 0:
            time.sleep(max(0.0, begin + index / rate - time.perf_counter()))
    publisher.flush()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def bare() -> Dataflow:
    """What a flow of posts would be that did nothing: source, decode, encode, sink. Measured for comparison."""
    settings = start(["posts", "thunder-posts"])
    decode, flow = msgspec.json.Decoder(PostCreated).decode, Dataflow("bare")

    def copied(batch: Batch) -> list[Record]:
        return [
            Record("thunder-posts", b"%d" % (message.offset() or 0), pack(decode(message.value() or b"")))
            for message in batch.messages
        ]

    batches = op.input("posts", flow, KafkaSource(settings, "posts", "flows.posts"))
    op.output("thunder-posts", op.map("copy", batches, copied), KafkaSink(settings))
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
        cpu_s = sum(sum(process.cpu_times()[:2]) for process in processes)
        yield Progress(time.perf_counter(), committed, cpu_s)
        if committed >= total:
            return
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{committed} messages of {total} committed in {TIMEOUT_S:g} s")
        time.sleep(0.05)


def _committed(broker: AdminClient, settings: Settings, topic: str) -> int:
    parts = [TopicPartition(topic, part) for part in range(settings.partitions)]
    asked = ConsumerGroupTopicPartitions(group(settings, f"flows.{topic}"), parts)
    (future,) = broker.list_consumer_group_offsets([asked]).values()
    return sum(max(0, part.offset) for part in future.result().topic_partitions)


def drained(settings: Settings, flow: str, topic: str, total: int, processes: int) -> Rate:
    """The rate at which a flow works off what stands in its topic."""
    with running(settings, flow, processes) as started:
        return rate_of(commits(follow(settings, topic, total, started)))


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
    return Rate(done / (end.at - begin.at), done / (end.cpu_s - begin.cpu_s))


def burst_lag_s(settings: Settings, messages: Log, seconds: float, rate: float) -> float:
    """Seconds from the end of a burst until the engagements flow has committed all of it."""
    before, burst = 1_000, int(seconds * rate)
    publish(settings, "engagements", messages(before))
    with running(settings, "flows.engagements", 1) as started:
        for _ in follow(settings, "engagements", before, started):
            pass
        publish(settings, "engagements", messages(burst), rate)
        ended = time.perf_counter()
        *_, last = follow(settings, "engagements", before + burst, started)
        return last.at - ended


# --- servers --------------------------------------------------------------------------------------------------------


@contextmanager
def servers(own: bool) -> Iterator[Settings]:
    """Kafka and Redis in containers, or those of the settings."""
    if own:
        yield load()
        return
    from tests.e2e import containers

    with containers.kafka() as kafka, containers.redis_server() as redis_:
        yield Settings(kafka=kafka.address, redis=f"redis://{redis_.address}/0")


def emptied(settings: Settings) -> None:
    """Topics and keys as on the first day."""
    broker = admin(settings)
    known = [name for name in TOPICS if name in broker.list_topics(timeout=10).topics]
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


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=1_500_000)
    parser.add_argument("--engagements", type=int, default=1_500_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--burst-seconds", type=float, default=10.0)
    parser.add_argument("--burst-rate", type=float, default=50_000.0, help="engagements a second")
    parser.add_argument(
        "--only", default="bare,posts,engagements,two,burst", help="of bare, posts, engagements, two, burst"
    )
    parser.add_argument("--own-servers", action="store_true", help="those of the settings; they are emptied")
    arguments = parser.parse_args()
    parts, random = set(arguments.only.split(",")), np.random.default_rng(7)
    measures, single = list[Measure](), dict[str, Rate]()
    counts: dict[str, int] = {"posts": arguments.posts, "engagements": arguments.engagements}
    logs: dict[str, Log] = {
        "posts": lambda count: posts(count, random),
        "engagements": lambda count: engagements(count, arguments.users, random),
    }
    with servers(arguments.own_servers) as settings:

        def measured(topic: str, processes: int, flow: str = "") -> Rate:
            sys.stderr.write(f"{counts[topic]} {topic} for {processes} process(es) of {flow or topic}\n")
            emptied(settings)
            publish(settings, topic, logs[topic](counts[topic]))
            rate = drained(settings, flow or f"flows.{topic}", topic, counts[topic], processes)
            sys.stderr.write(f"  {rate.per_second:,.0f} a second, {rate.per_cpu_second:,.0f} a CPU second\n")
            return rate

        if "bare" in parts:
            rate = measured("posts", 1, "benchmarks.ingest:bare")
            spread = {"per_cpu_second": round(rate.per_cpu_second, 1)}
            measures.append(Measure("bare_posts_per_second", round(rate.per_second, 1), "1/s", "higher", None, spread))
        for topic, goal in (("posts", 150_000.0), ("engagements", 100_000.0)):
            if topic in parts:
                single[topic] = rate = measured(topic, 1)
                spread = {"per_cpu_second": round(rate.per_cpu_second, 1)}
                measures.append(
                    Measure(f"{topic}_per_second", round(rate.per_second, 1), "1/s", "higher", goal, spread)
                )
        if "two" in parts:
            ratios = {topic: round(measured(topic, 2).per_second / one.per_second, 2) for topic, one in single.items()}
            measures.append(Measure("two_process_ratio", min(ratios.values()), "", "higher", None, ratios))
        if "burst" in parts:
            emptied(settings)
            lag = burst_lag_s(settings, logs["engagements"], arguments.burst_seconds, arguments.burst_rate)
            measures.append(Measure("burst_lag_seconds", round(lag, 2), "s", "lower", 5.0))
    print_report("ingest", vars(arguments), measures)


if __name__ == "__main__":
    main()
