"""The swap to an announced model: after all its vectors are there, and never to an unusable one."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from feed_worker.client import Client
from feed_worker.experiments import experiments_of
from feed_worker.serving.service import Service
from feed_worker.serving.worker_registry import ready_workers
from flows.embeddings import Embed, EmbeddingTask
from flows.sources import Batch
from infra.ops.model_command import use
from infra.ports.clock import now_ms
from infra.ports.kafka_admin import create_topics
from infra.ports.producer import Record
from infra.ports.redis import connect
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from phoenix.serving.engine import Phoenix
from phoenix.serving.model_topic import announce
from phoenix.training.checkpoints import phoenix_of
from tests.e2e.containers import free_port
from tests.feed_worker.builders import post
from tests.flows.test_embeddings import message
from tests.infra.cli.foryou import write
from tests.infra.ports.test_endpoints import get
from tests.infra.waiting import eventually
from tests.phoenix.saved import TINY, saved
from thunder_ingest.events import Engagement, Post, key_of_id, pack
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

pytestmark = pytest.mark.embedded

VIEWER, POSTS = 7, 30
_SLOW_S = 300.0


class Models:
    """Two models, and records of their vectors as the flow writes them."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        self.paths = [saved(directory / "a", TINY, 1), saved(directory / "b", replace(TINY, embed_dim=16), 2)]
        self.first, self.second = map(phoenix_of, self.paths)

    def write(self, posts: Sequence[Post | int], *models: Phoenix) -> None:
        """Write the records of posts, or tombstones of ids, and their vectors."""
        batch = Batch("thunder-posts", 0, [message(offset, each) for offset, each in enumerate(posts)])
        write(self._settings, *(Record("thunder-posts", _key(each), _value(each)) for each in posts))
        write(self._settings, *Embed()(EmbeddingTask(batch, models)))


def _key(each: Post | int) -> bytes:
    return key_of_id(each if isinstance(each, int) else each.post_id)


def _value(each: Post | int) -> bytes | None:
    return None if isinstance(each, int) else pack(each)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    directory = tmp_path_factory.mktemp("servers")
    with EmbeddedKafka(directory / "kafka") as kafka, EmbeddedRedis(directory / "redis") as valkey:
        addresses = {"kafka": kafka.address, "redis": valkey.address}
        settings = load(**addresses, partitions=2, session_timeout_ms=2_000, http_port=free_port())
        create_topics(settings)
        yield settings


@contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """A worker in this process that is ready."""
    stopping, client = threading.Event(), connect(settings)
    worker = threading.Thread(target=Service(settings, experiments_of(settings), stopping).run)
    worker.start()
    try:
        eventually(lambda: bool(ready_workers(client)), _SLOW_S)
        yield
    finally:
        stopping.set()
        worker.join()
        client.close()


def models_of(settings: Settings) -> tuple[str, str]:
    """The model that serves, and the state of the announced one."""
    text = get(settings.http_port, "/metrics").text
    served, state = re.search(r'foryou_model{version="(.+)"}', text), re.search(r'announced{state="(.+?)"', text)
    assert served
    return served[1], state[1] if state else ""


def fresh_posts() -> list[Post]:
    at = now_ms() - 60_000
    return [post(number, 100 + number, text=f"words of post {number}", created_at=at) for number in range(1, POSTS + 1)]


def test_a_worker_swaps_to_the_announced_model_once_it_has_all_vectors(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.model_swap.RETRY_S", 0.5)
    models, posts = Models(settings, tmp_path), fresh_posts()
    first, second = models.first.version, models.second.version
    use(settings, models.paths[0])
    models.write(posts, models.first)
    liked = Engagement(user_id=VIEWER, post_id=1, author_id=101, action="favorite", at=posts[0].at)
    with serving(settings), Client(settings) as client:
        declare_whole(client.redis)
        UserStates(client.redis).append([*updates_of(liked)], "0-0-0")

        def sources() -> tuple[str, set[str]]:
            feed = client.wait(VIEWER, client.request_feed(VIEWER, size=3), 60)
            return feed.model_version, {item.source for item in feed.items}

        assert models_of(settings) == (first, "served")
        assert sources() == (first, {"phoenix_retrieval"})

        announce(settings, second, str(tmp_path / "late"))
        eventually(lambda: models_of(settings) == (first, "unusable"))
        assert sources() == (first, {"phoenix_retrieval"})

        models.paths[1].rename(tmp_path / "late")
        models.write(posts[:-1], models.first, models.second)
        eventually(lambda: models_of(settings) == (first, "collecting"), _SLOW_S)
        models.write([posts[0].post_id], models.first, models.second)
        assert sources() == (first, {"phoenix_retrieval"})
        assert models_of(settings) == (first, "collecting")  # the last post lacks a vector

        models.write(posts[-1:], models.second)
        eventually(lambda: models_of(settings) == (second, "served"))
        assert sources() == (second, {"phoenix_retrieval"})
        eventually(lambda: [each["model_version"] for each in ready_workers(client.redis)] == [second])
        assert f"foryou_index_vectors {POSTS - 1}.0" in get(settings.http_port, "/metrics").text

        use(settings, models.paths[0])  # and back: dropped vectors are read again
        models.write(posts[1:], models.second, models.first)
        eventually(lambda: models_of(settings) == (first, "served"))
        assert sources() == (first, {"phoenix_retrieval"})
    with serving(settings):
        assert models_of(settings) == (first, "served")
        use(settings, tmp_path / "late")
        eventually(lambda: models_of(settings)[1] in ("loading", "collecting"))  # and the process is stopped meanwhile
    assert "swap" not in {thread.name for thread in threading.enumerate()}
