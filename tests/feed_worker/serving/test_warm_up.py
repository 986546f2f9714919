"""A ready worker has compiled and imported everything: no viewer waits for a first use."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import pytest
import redis
from numba.core.dispatcher import Dispatcher

from feed_worker.candidates.columns import SOURCES
from feed_worker.client import Client
from feed_worker.documents.explanation import Explanation
from feed_worker.experiments import experiments_of
from feed_worker.parameters import FORYOU, X_2026_08_12
from feed_worker.serving.service import Service
from feed_worker.serving.warm_up import warm_up_pipeline
from feed_worker.serving.worker_registry import ready_workers
from infra.ports.clock import DAY_MS, WallClock
from infra.ports.kafka_admin import create_topics
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import Client as RedisClient
from infra.ports.redis import connect
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from infra.world import World, WorldConfig, generate
from phoenix.models.configs import NANO
from tests.feed_worker.builders import FixedModel
from tests.infra.waiting import eventually
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import MuteKeyword, PostCounts, PostEmbedding, pack
from thunder_ingest.events.ids import PublishedId
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

OURS: Final = ("feed_worker", "infra", "phoenix", "thunder_ingest")
OPTIONS: Final[list[dict[str, Any]]] = [
    {},
    {"size": 100},
    {"in_network_only": True},
    {"exclude_videos": True},
    {"langs": ["en", "de"]},
    {"seen_ids": [1, "did:plc:post"], "surface": "home"},
    {"after": "a page"},
]
EXPERIMENT: Final = {
    "name": "everything",
    "variants": [{"name": preset, "share": 0.5, "preset": preset} for preset in ("foryou", "x-2026-08-12")],
}


def test_the_warm_up_makes_feeds_with_each_set_of_parameters_and_writes_nothing(valkey: redis.Redis) -> None:
    ranker, variants = FixedModel(), [FORYOU, replace(X_2026_08_12, checkpoint="another")]
    results = warm_up_pipeline(FixedModel(), UserStates(valkey), variants, {"another": ranker})
    assert {result.status for result in results} == {"ok", "empty"}  # no viewer follows any account
    shown = [result for result in results if len(result.candidates)]
    assert {result.query.parameters.name for result in shown} == {each.name for each in variants}
    found = {SOURCES[source] for result in shown for source in result.candidates.source}
    assert found == {*SOURCES} - {"check", "repeat"}  # they read rows, and the network like thunder
    assert ranker.scored
    assert valkey.dbsize() == 0


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with EmbeddedKafka(tmp_path / "kafka") as kafka, EmbeddedRedis(tmp_path / "redis") as valkey:
        addresses = {"kafka": kafka.address, "redis": valkey.address}
        own = load(**addresses, partitions=2, session_timeout_ms=2_000, experiments=[EXPERIMENT])
        create_topics(own)
        yield own


@pytest.mark.embedded
def test_a_ready_worker_compiles_and_imports_nothing_for_any_request(
    settings: Settings,
) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # other tests have compiled everything in this process
        served = fresh.submit(serve, settings).result()
    assert served["new"] == []
    assert served["compiled before"] > 30
    assert served["statuses"] == {"ok", "empty"}  # no viewer follows any account
    assert served["sources"] == {"thunder", "phoenix_retrieval", "popular"}
    assert served["components"] >= {
        "user_state_hydrator",
        "muted_keyword_filter",
        "dpp_scorer",
        "new_author_boost_scorer",
    }


def serve(settings: Settings) -> dict[str, Any]:
    """Start a worker, write a world, send requests of every kind, and return the compilations that they caused."""
    traced: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: traced.append(event))
    stopping, client = threading.Event(), connect(settings)
    worker = threading.Thread(target=Service(settings, experiments_of(settings), stopping).run)
    worker.start()
    try:
        eventually(lambda: bool(ready_workers(client)), 300)
        compiled, imported, before = kernels(), imports(), len(traced)
        explanations = list(answered(settings, client, ready_workers(client)[0]["model_version"]))
        new = sorted(kernels() - compiled) + sorted(imports() - imported) + traced[before:]
    finally:
        stopping.set()
        worker.join()
    return {
        "new": new,
        "compiled before": len(compiled),
        "statuses": {each.status for each in explanations},
        "sources": {item.source for each in explanations for item in each.items},
        "components": {name for each in explanations for name in each.timings_ms},
    }


def imports() -> set[str]:
    """The imported modules, without those of the client, which the test uses in this process."""
    return {name for name in sys.modules if not name.startswith("feed_worker.client.")}


def kernels() -> set[str]:
    """The signatures that each kernel has been compiled for, or loaded with."""
    modules = [module for name, module in sys.modules.items() if name.startswith(OURS)]
    values = [value for module in modules for value in vars(module).values()]
    return {f"{each}{signature}" for each in values if isinstance(each, Dispatcher) for signature in each.signatures}


def answered(settings: Settings, client: RedisClient, version: str) -> Iterator[Explanation]:
    """The feeds of requests of every kind, in a world that is written while the worker serves."""
    world = generate(WorldConfig(), until_ms=WallClock().now_ms())
    declare_whole(client)
    UserStates(client).append([u for each in (*world.engagements, *world.graph) for u in updates_of(each)], "0-0-0")
    publisher = KafkaProducer(settings)
    publisher.publish(records_of(world, version))
    publisher.flush()
    muting = next(event.user_id for event in world.graph if isinstance(event, MuteKeyword))
    with Client(settings) as app:

        def ask(viewer: PublishedId, **options: Any) -> Explanation:
            app.wait(viewer, app.request_feed(viewer, explain=True, **options), 60)
            explanation = app.explain(viewer)
            assert explanation is not None
            return explanation

        eventually(lambda: {item.source for item in ask(world.viewers[0]).items} >= {"thunder", "phoenix_retrieval"})
        for viewer, options in product([*world.viewers[:5], muting, "did:plc:unknown"], OPTIONS):
            yield ask(viewer, **options)


def records_of(world: World, version: str) -> Iterator[Record]:
    """The changelogs as the flows write them, with arbitrary vectors."""
    table = PostTable(10 * DAY_MS)
    random = np.random.default_rng(7)
    for events in (world.posts[:500], world.posts[500:]):
        for key, value, headers in table.changes(events, world.until_ms).records:
            yield Record("thunder-posts", key, value, headers)
            vector = random.normal(size=NANO.embed_dim)
            packed = (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
            yield Record(
                "post-embeddings", key, pack(PostEmbedding(post_id=int(key), model_version=version, vector=packed))
            )
            totals = random.integers(0, 9, COUNT_COLUMNS).tolist()
            yield Record("post-counts", key, pack(PostCounts(post_id=int(key), at=world.until_ms, totals=totals)))
