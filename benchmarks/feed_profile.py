"""Profile of a feed inside the worker: the time of every component, one request at a time, without other load.

`python -m benchmarks.feed_profile [--model NAME] [--posts N] [--requests N] [--profile FILE]`. The benchmark fills a
post store and an index in this process, writes viewers to an embedded Redis, and runs the worker's pipeline.
"""

import argparse
import cProfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.feed_world import CHUNK, Viewer, vectors_of, viewers_of, world_of, write_viewers
from benchmarks.report import Measure, print_report, quantiles
from benchmarks.thunder_world import ThunderWorld
from feed_worker.candidates.query import Query
from feed_worker.documents.build import feed_of, served_of
from feed_worker.parameters import PRESETS
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica.index_traits import traits_of
from feed_worker.serving.feed_store import Answer, FeedStore
from infra.ports.clock import now_ms
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.stack.embedded import EmbeddedRedis
from infra.terminal.progress import Advance, ProgressReport
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from thunder_ingest.events import FeedRequest
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.redis_form import UserStates


def fill(store: PostStore, index: VectorIndex, world: ThunderWorld, version: str, dim: int, advance: Advance) -> None:
    """Write posts and vectors to store and index, like the worker's replica."""
    for begin in range(0, len(world.kind), CHUNK):
        posts = world.posts(begin, begin + CHUNK)
        store.apply(posts)
        ids = np.array([post.post_id for post in posts], np.int64)
        index.upsert(ids, vectors_of(world, dim, begin, begin + CHUNK), version, traits_of(store, ids))
        advance(begin + len(posts), len(world.kind))


def query_of(viewer: Viewer, preset: str, number: int) -> Query:
    """Return a request of a viewer at the current time."""
    requested_ms, form = now_ms(), str(viewer.user_id)
    return Query(
        request=FeedRequest(request_id=f"r{number}", user_id=viewer.user_id, at=requested_ms),
        user_id=viewer.user_id,
        user_form=form,
        now_ms=requested_ms,
        deadline_at=requested_ms + 60_000,
        size=35,
        parameters=PRESETS[preset],
    )


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="small", help="Set the model configuration, such as nano or small")
    parser.add_argument("--posts", type=int, default=1_000_000, help="Set the number of posts")
    parser.add_argument("--authors", type=int, default=100_000, help="Set the number of authors")
    parser.add_argument("--viewers", type=int, default=60, help="Set the number of viewers")
    parser.add_argument("--requests", type=int, default=100, help="Set the number of measured requests")
    parser.add_argument("--parameters", default="classic", choices=PRESETS, help="Set the preset of the parameters")
    parser.add_argument("--profile", type=Path, help="Write a cProfile file to this path")
    arguments = parser.parse_args(options)
    world = world_of(arguments.posts, arguments.authors, seed=5)
    viewers = viewers_of(world, arguments.viewers, seed=6)
    model, store = Phoenix.seeded(arguments.model, Settings().model_seed), PostStore()
    dim = model.config.embed_dim
    index = VectorIndex()
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis(Path(directory)) as redis,
        ProgressReport(Console(stderr=True)) as report,
    ):
        client = connect(Settings(redis=redis.address))
        with report.step("viewers") as advance:
            write_viewers(client, viewers, advance)
        with report.step("posts and vectors") as advance:
            fill(store, index, world, model.version, dim, advance)
        with report.step("compiling"):
            store.warm_up()
            index.warm_up(dim, model.config.batch_buckets, PRESETS[arguments.parameters].retrieval_max)
            model.warm_up(parts=("rank", "retrieve"))
        pipeline, feeds = foryou_pipeline(store, index, model, UserStates(client)), FeedStore(client, 600)
        taken: dict[str, list[float]] = {}
        ranked: list[float] = []

        def answer(number: int) -> None:
            query = query_of(viewers[number % len(viewers)], arguments.parameters, number)
            began = time.perf_counter()
            (result,) = pipeline.run([query])
            run = time.perf_counter()
            feed = feed_of(result, store, query.now_ms, [query.request.request_id])
            made = time.perf_counter()
            feeds.write([Answer(feed, None, [served_of(result, feed, query.request.request_id)])])
            written = time.perf_counter()
            parts = {"run": run - began, "document": made - run, "write": written - made, "whole": written - began}
            for name, ms in (result.timings_ms | {name: 1_000 * part for name, part in parts.items()}).items():
                taken.setdefault(name, []).append(ms)
            ranked.append(float(next(step.entered for step in result.funnel if step.stage == "selector")))

        for number in range(10):
            answer(number)
        taken.clear()
        profiler = cProfile.Profile()
        if arguments.profile:
            profiler.enable()
        cpu_began_s = time.process_time()
        for number in range(10, 10 + arguments.requests):
            answer(number)
        cpu_ms = 1_000 * (time.process_time() - cpu_began_s) / arguments.requests
        if arguments.profile:
            profiler.disable()
            profiler.dump_stats(arguments.profile)
    spreads = {name: quantiles(values) for name, values in taken.items()}
    measures = [Measure(f"{name}_ms", each["p50"], "ms", "lower", spread=each) for name, each in spreads.items()]
    measures.append(Measure("cpu_ms_per_feed", round(cpu_ms, 2), "ms", "lower"))
    measures.append(Measure("candidates_ranked", float(np.median(ranked)), "candidates", "higher"))
    config = vars(arguments) | {"profile": bool(arguments.profile)}
    print_report("feed_profile", config, measures)


if __name__ == "__main__":
    main()
