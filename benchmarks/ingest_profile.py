"""Profile of the flows behind `benchmarks.ingest`: CPU time of each step in µs per event, without servers.

`python -m benchmarks.ingest_profile [--events N] [--repeat N]`. The rest of a flow's time is consuming and producing,
which the baseline flow of `benchmarks.ingest` measures.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.ingest_log import engagements, posts
from benchmarks.report import Measure, print_report
from flows.decoding import Decoded, Decoder
from flows.engagements import count_changes, engaged, user_writes
from flows.posts import Apply, Route
from flows.process import tune_garbage_collector
from flows.sources import BATCH_MESSAGES, Batch
from infra.ports.clock import WallClock
from infra.ports.message import MessageCopy
from infra.ports.settings import Settings
from thunder_ingest.events.text import packed_tokens_of
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.redis_form import hset_commands


def batch(topic: str, messages: Sequence[tuple[bytes, bytes]]) -> Batch:
    """Return messages as a batch of the source."""
    return Batch(
        topic,
        0,
        [
            MessageCopy(topic=topic, partition=0, offset=n, key=key, value=value)
            for n, (key, value) in enumerate(messages)
        ],
    )


def cpu_us(step: Callable[[], object], events: int, repeat: int) -> list[float]:
    """Return the CPU time of a step in µs per event, for each repetition."""
    times = []
    step()  # the first call compiles kernels
    for _ in range(repeat):
        begin = time.thread_time()
        step()
        times.append((time.thread_time() - begin) / events * 1e6)
    return times


def steps(count: int) -> dict[str, Callable[[], object]]:
    """Return the steps by name; all use the same events."""
    random, decode = np.random.default_rng(7), Decoder(Settings(), WallClock())
    written = batch("posts", list(posts(count, random)))
    views = batch("engagements", list(engagements(count, 100_000, random)))
    created, viewed = decode(written), decode(views)
    columns = engaged(viewed)
    writes = user_writes(columns)

    def applied(decoded: Decoded) -> Any:
        ((_, share),) = Route(1)(decoded)
        return Apply(PostTable(Settings().max_post_age_ms), WallClock(), lambda _table: None)(share)

    return {
        "posts_decode": lambda: decode(written),
        "posts_apply": lambda: applied(created),
        "posts_apply_of_that_tokens": lambda: packed_tokens_of([event.text for event in created.events]),
        "engagements_decode": lambda: decode(views),
        "engagements_columns": lambda: engaged(viewed),
        "engagements_group_by_user": lambda: user_writes(columns),
        "engagements_pack_for_redis": lambda: hset_commands(writes.entries, writes.suffix),
        "engagements_count": lambda: count_changes(columns),
    }


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--events", type=int, default=BATCH_MESSAGES, help="Set the events of a batch")
    parser.add_argument("--repeat", type=int, default=20, help="Set the repetitions of each step")
    arguments = parser.parse_args(options)
    tune_garbage_collector()
    measures = []
    for name, step in steps(arguments.events).items():
        times = cpu_us(step, arguments.events, arguments.repeat)
        spread = {"min": round(min(times), 2), "max": round(max(times), 2)}
        measures.append(Measure(f"{name}_us", round(float(np.median(times)), 2), "us", "lower", spread=spread))
    print_report("ingest_profile", vars(arguments), measures)


if __name__ == "__main__":
    main()
