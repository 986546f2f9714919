"""Start-up of a worker's replica: from an empty process to a post store with the whole changelog, on real Kafka.

`python -m benchmarks.thunder_ready` is the measured process; it prints the seconds of its parts as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.thunder_world import NOW_MS, SPAN_MS, generate
from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka

_TOPIC: Final = "thunder-posts"


def ready_seconds(posts: int, authors: int, seed: int) -> dict[str, float]:
    """Seconds from the start of a process to readiness, and their parts, with a broker on the same machine."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedKafka(Path(directory)) as kafka:
        settings = Settings(kafka=kafka.address, clock="log", max_post_age_ms=2 * SPAN_MS)
        create_topics(settings)
        _publish(settings, posts, authors, seed)
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.thunder_ready"]
        done = subprocess.run(command, env=os.environ | settings.environment(), capture_output=True, check=True)
        parts: dict[str, float] = json.loads(done.stdout)
        if parts.pop("posts") != posts:
            raise RuntimeError("the store does not hold every post of the changelog")
        return {"ready": round(time.perf_counter() - began, 2)} | parts


def _publish(settings: Settings, posts: int, authors: int, seed: int) -> None:
    from confluent_kafka import Producer

    from infra.ports.kafka_config import client_config
    from thunder_ingest.events import key_of_id, pack

    world = generate(posts, authors, seed)
    producer = Producer(client_config(settings) | {"linger.ms": 50, "queue.buffering.max.messages": 200_000})
    for begin in range(0, posts, 10_000):
        for post in world.posts(begin, begin + 10_000):
            producer.produce(_TOPIC, pack(post), key_of_id(post.post_id))
        producer.flush()


def main() -> None:
    """Read the changelog of the configured broker like a worker, and print the seconds."""
    began = time.perf_counter()
    from feed_worker.replica.reader import Replica, tune_garbage_collector
    from infra.ports.clock import clock_of
    from phoenix.index.retrieval_index import VectorIndex
    from thunder_ingest.posts.store import PostStore, StoreLimits

    settings = load()
    imported = time.perf_counter()
    store = PostStore(StoreLimits(max_age_ms=settings.max_post_age_ms))
    store.warm_up()
    warm = time.perf_counter()
    clock = clock_of(settings.clock)
    clock.observe([NOW_MS])
    replica = Replica(settings, store, VectorIndex(), clock, "none")
    tune_garbage_collector()
    replica.start()
    replica.caught_up.wait()
    caught_up = time.perf_counter()
    parts = {"imports": imported - began, "warm_up": warm - imported, "replica": caught_up - warm}
    print(json.dumps({name: round(value, 2) for name, value in parts.items()} | {"posts": len(store)}), flush=True)
    replica.stop()


if __name__ == "__main__":
    main()
