"""Thunder: in-network reads, inserts, memory and start-up of the post store, beside a plain dict-and-deque store.

`python -m benchmarks.thunder [--posts N] [--authors N] [--viewers N] [--plain-viewers N] [--writing-seconds S]
[--ready-posts N]`. Reads are in thread CPU time, with wall time beside it. Each viewer is read once, so that caches are
cold. Inserts are those of a worker: changelog records as bytes, decoding included. `insert_decoded_per_second` inserts
`Post` objects, a tenth of the posts.
"""

import argparse
import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.plain_store import PlainStore
from benchmarks.report import Measure, print_report, quantiles
from benchmarks.thunder_ready import ready_seconds
from benchmarks.thunder_world import NOW_MS, ThunderWorld, Viewer, generate, viewers
from thunder_ingest.events import pack, unpack_post
from thunder_ingest.posts.store import PostStore, StoreLimits

BATCH: Final = 1_000
POSTS_PER_SECOND_WHILE_READING: Final = 20_000
VIEWER: Final = 1 << 59


def resident_bytes() -> int:
    """Resident memory of this process, after the allocator has returned free memory where it can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    resident: int = psutil.Process().memory_info().rss
    return resident


def load(world: ThunderWorld, store: PostStore, end: int) -> dict[str, float]:
    """Fill a store; returns the seconds of its own work, and the growth of the process in bytes per post."""
    before = resident_bytes()
    spent = sum((insert(store, packed(world, begin, end)) for begin in range(0, end, BATCH)), np.zeros(2))
    for begin in range(0, end, BATCH):
        store.apply_counts(world.counts(begin, min(begin + BATCH, end)))
    wall, cpu = spent.tolist()
    return {"wall": wall, "cpu": cpu, "bytes": (resident_bytes() - before) / end}


def packed(world: ThunderWorld, begin: int, end: int) -> list[bytes]:
    """A batch of posts of the world as changelog records."""
    return [pack(post) for post in world.posts(begin, min(begin + BATCH, end))]


def insert(store: PostStore, records: list[bytes]) -> NDArray[np.float64]:
    """Wall and CPU seconds of inserting a batch."""
    wall_began, cpu_began = time.perf_counter(), time.thread_time()
    _, others = store.apply_packed(records)
    store.apply([unpack_post(records[place]) for place in others])
    return np.array([time.perf_counter() - wall_began, time.thread_time() - cpu_began])


def decoded_per_second(world: ThunderWorld, end: int) -> float:
    """Posts inserted as objects, per second of wall time."""
    store, spent = PostStore(), 0.0
    for begin in range(0, end, BATCH):
        posts = world.posts(begin, min(begin + BATCH, end))
        began = time.perf_counter()
        store.apply(posts)
        spent += time.perf_counter() - began
    return round(end / spent)


def read(store: PostStore, viewer: Viewer) -> Any:
    """The rows of a viewer's candidates."""
    return store.in_network(viewer.following, VIEWER, viewer.excluded, NOW_MS)


def timed(work: Callable[[Viewer], object], of: Sequence[Viewer]) -> dict[str, float]:
    """Quantiles of thread CPU time in microseconds, and of wall time as `wall_…`."""
    cpu, wall = [], []
    for viewer in of:
        wall_began, cpu_began = time.perf_counter_ns(), time.thread_time_ns()
        work(viewer)
        cpu.append((time.thread_time_ns() - cpu_began) / 1_000)
        wall.append((time.perf_counter_ns() - wall_began) / 1_000)
    return quantiles(cpu) | {f"wall_{name}": value for name, value in quantiles(wall).items()}


def while_writing(
    store: PostStore, world: ThunderWorld, begin: int, seconds: float, of: Sequence[Viewer]
) -> dict[str, float]:
    """The same beside a thread that applies posts at a fixed rate; also the applied posts per second."""
    wanted = int(seconds * POSTS_PER_SECOND_WHILE_READING)
    batches = [packed(world, at, begin + wanted) for at in range(begin, begin + wanted, BATCH)]
    written, stopping = [0], threading.Event()

    def write() -> None:
        began = time.perf_counter()
        for number, records in enumerate(batches):
            due = began + number * BATCH / POSTS_PER_SECOND_WHILE_READING
            if stopping.wait(max(due - time.perf_counter(), 0)):
                return
            insert(store, records)
            written[0] += len(records)

    writer = threading.Thread(target=write)
    began = time.perf_counter()
    writer.start()
    reads: list[Viewer] = []
    while len(reads) < len(of) * 10:
        reads += of
    spread = timed(lambda viewer: read(store, viewer) if writer.is_alive() else None, reads)
    stopping.set()
    writer.join()
    return spread | {"posts_per_second": round(written[0] / (time.perf_counter() - began))}


def compare(store: PostStore, plain: PlainStore, of: Sequence[Viewer]) -> tuple[dict[str, float], float]:
    """Times of the plain store, and the number of viewers with other results from it."""
    arguments = [(viewer.following.tolist(), set(viewer.excluded.tolist())) for viewer in of]
    answers: list[list[int]] = []
    spread = timed(lambda _: answers.append(_plain(plain, *arguments[len(answers)])), of)
    expected = [store.columns(read(store, viewer)).post_id.tolist() for viewer in of]
    return spread, float(sum(one != other for one, other in zip(answers, expected, strict=True)))


def _plain(plain: PlainStore, following: list[int], excluded: set[int]) -> list[int]:
    return plain.in_network(following, VIEWER, excluded, NOW_MS)


def measures(arguments: argparse.Namespace) -> list[Measure]:
    """All measures."""
    limits = StoreLimits()
    PostStore(limits).warm_up()
    more = int(arguments.writing_seconds * POSTS_PER_SECOND_WHILE_READING)
    world = generate(arguments.posts + more, arguments.authors, arguments.seed)
    store = PostStore(limits)
    sys.stderr.write(f"loading {arguments.posts:,} posts\n")
    loaded = load(world, store, arguments.posts)

    def asking(follows: int, *, popular: bool, seed: int) -> list[Viewer]:
        return viewers(world, arguments.viewers, follows, 200, popular=popular, seed=seed)

    kinds = {
        "read_1000_follows": asking(1_000, popular=True, seed=1),
        "read_1000_sparse": asking(1_000, popular=False, seed=2),
        "read_10000_follows": asking(10_000, popular=True, seed=3),
    }
    others = asking(1_000, popular=True, seed=4)
    for viewer in others[:20]:
        read(store, viewer)
    sys.stderr.write("reading\n")
    spreads = {name: timed(lambda viewer: read(store, viewer), of) for name, of in kinds.items()}
    plain = PlainStore(limits)
    for begin in range(0, arguments.posts, BATCH):
        plain.apply(world.posts(begin, min(begin + BATCH, arguments.posts)))
    compared = {name: compare(store, plain, of[: arguments.plain_viewers]) for name, of in kinds.items()}
    del plain
    gc.collect()
    sys.stderr.write("reading while writing\n")
    writing = while_writing(store, world, arguments.posts, arguments.writing_seconds, others)
    result = [
        Measure("read_1000_follows_p50", spreads["read_1000_follows"]["p50"], "us", "lower"),
        _p99("read_1000_follows", spreads["read_1000_follows"], 200.0),
        _p99("read_1000_sparse", spreads["read_1000_sparse"], 400.0),
        _p99("read_10000_follows", spreads["read_10000_follows"], 1_000.0),
        _p99("read_1000_follows_while_writing", writing, 400.0),
        Measure("insert_per_second", round(arguments.posts / loaded["wall"]), "1/s", "higher"),
        Measure("insert_per_cpu_second", round(arguments.posts / loaded["cpu"]), "1/s", "higher"),
        Measure("insert_decoded_per_second", decoded_per_second(world, arguments.posts // 10), "1/s", "higher"),
        Measure("bytes_per_post", round(loaded["bytes"], 1), "bytes", "lower", 300.0),
    ]
    for name, (spread, different) in compared.items():
        result.append(_p99(f"plain_{name}", spread, None))
        result.append(Measure(f"different_{name}", different, "viewers", "lower", 0.0))
    return result


def _p99(name: str, spread: dict[str, float], goal: float | None) -> Measure:
    return Measure(f"{name}_p99", spread["p99"], "us", "lower", goal, spread)


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--posts", type=int, default=1_000_000, help="Set the number of posts")
    parser.add_argument("--authors", type=int, default=200_000, help="Set the number of authors")
    parser.add_argument("--viewers", type=int, default=300, help="Set the viewers per kind, each read once")
    parser.add_argument("--plain-viewers", type=int, default=20, help="Set the viewers per kind for the plain store")
    parser.add_argument("--writing-seconds", type=float, default=5.0, help="Set the seconds of concurrent writes")
    parser.add_argument(
        "--ready-posts",
        type=int,
        default=1_000_000,
        help="Set the posts for the start-up; 0 skips it",
    )
    parser.add_argument("--seed", type=int, default=20261123, help="Set the random seed")
    arguments = parser.parse_args(options)
    found = measures(arguments)
    if arguments.ready_posts:
        sys.stderr.write(f"starting up with {arguments.ready_posts:,} posts on the changelog\n")
        seconds = ready_seconds(arguments.ready_posts, arguments.authors, arguments.seed)
        found.append(Measure("ready_seconds_1m_posts", seconds["ready"], "s", "lower", 10.0, seconds))
    print_report("thunder", vars(arguments), found)


if __name__ == "__main__":
    main()
