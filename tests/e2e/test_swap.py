"""A model swap while posts and requests arrive: requests do not wait, and no feed mixes two models."""

import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from feed_worker.candidates.model_inputs import history_of
from feed_worker.client import Client
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from flows.embeddings import Embed, EmbeddingTask
from flows.sources import Batch
from infra.ops.model_command import use
from infra.ports.clock import HOUR_MS, now_ms
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from phoenix.serving.engine import Phoenix
from phoenix.training.checkpoints import phoenix_of
from tests.e2e.conftest import LONG_S, eventually
from tests.e2e.processes import Process, outputs, running, stop
from tests.feed_worker.builders import query
from tests.infra.cli.foryou import foryou
from tests.phoenix.saved import TINY, saved
from thunder_ingest.events import unpack_embedding, unpack_post
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.redis_form import UserStates

FLOWS = ("flows.posts", "flows.engagements", "flows.embeddings")
POSTS, AUTHORS, VIEWERS, LIKED = 6_000, 300, range(1, 21), 6
WORDS = ("sail", "bay", "harbour", "soup", "bread", "oven", "goal", "match", "score", "violin", "opera", "tune")
PRODUCT_TOLERANCE = 0.02
"""Histories age between the request and the check. Vectors of two models differ by far more."""


def now() -> int:
    return now_ms()


def post(number: int) -> dict[str, object]:
    text = f"{WORDS[number % 12]} {WORDS[number % 7]} {WORDS[number % 5]}"
    author = 1_000 + number % AUTHORS
    return {"type": "post_created", "post_id": number, "author_id": author, "at": now(), "text": text}


def deletion(number: int) -> dict[str, object]:
    return {"type": "post_deleted", "post_id": number, "author_id": 1_000 + number % AUTHORS, "at": now()}


def likes() -> Iterator[dict[str, object]]:
    for viewer, nth in itertools.product(VIEWERS, range(1, LIKED + 1)):
        number = viewer * 12 + nth
        ids = {"user_id": viewer, "post_id": number, "author_id": 1_000 + number % AUTHORS}
        yield {"type": "engagement", "action": "favorite", "at": now() - HOUR_MS} | ids


class Answer(NamedTuple):
    """The answer to one request."""

    feed: Feed
    explanation: Explanation


class App(threading.Thread):
    """Publishes posts, deletes posts and requests feeds in turn until `stop`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self._settings, self._stopping = settings, threading.Event()
        self.answers: list[Answer] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._settings) as client:
                for number, viewer in zip(itertools.count(POSTS + 1), itertools.cycle(VIEWERS), strict=False):
                    if self._stopping.is_set():
                        return
                    client.publish([post(number), deletion(number - POSTS + 500)])
                    feed = client.wait(viewer, client.request_feed(viewer, explain=True, size=20), timeout_s=LONG_S)
                    explanation = client.explain(viewer)
                    assert explanation is not None
                    self.answers.append(Answer(feed, explanation))
        except BaseException as error:
            self.failure = error

    def serves(self, version: str) -> bool:
        """True if the newest feed is of this model."""
        assert self.failure is None
        return bool(self.answers) and self.answers[-1].feed.model_version == version

    def stop(self) -> None:
        self._stopping.set()
        self.join(LONG_S)
        assert self.failure is None


def test_models_are_swapped_while_posts_and_requests_arrive(settings: Settings, tmp_path: Path) -> None:
    wide = replace(TINY, name="wide", embed_dim=16)
    paths = [saved(tmp_path / name, config, seed) for name, config, seed in (("a", TINY, 1), ("b", wide, 2))]
    paths.append(saved(tmp_path / "c", wide, 3))
    models = [phoenix_of(path) for path in paths]
    first, second, third = (model.version for model in models)
    assert use(settings, paths[0]).version == first
    with Client(settings) as client, running(settings, tmp_path, *FLOWS, "feed_worker") as processes:
        client.publish([*map(post, range(1, POSTS + 1)), *likes()])
        client.wait(1, client.request_feed(1), timeout_s=LONG_S)
        assert eventually(lambda: len(vectors(settings)) == POSTS), outputs(processes)
        app = App(settings)
        app.start()
        assert eventually(lambda: app.serves(first)), outputs(processes)

        swapped = foryou("models", "use", str(tmp_path / "b"), "--json", settings=settings)
        assert swapped.returncode == 0, swapped.stderr
        flow = processes["flows.embeddings"]
        assert eventually(lambda: f"vectors of model {second}, from offset" in flow.output()), outputs(processes)
        flow.kill()
        flow.start()
        assert eventually(lambda: app.serves(second)), outputs(processes)

        assert foryou("models", "use", str(paths[2]), settings=settings).returncode == 0
        assert eventually(lambda: app.serves(third)), outputs(processes)
        processes["feed_worker"].kill()
        processes["feed_worker"].start()
        since = len(app.answers)
        assert eventually(lambda: len(app.answers) > since + len(VIEWERS)), outputs(processes)
        app.stop()
        assert_no_feed_mixes(settings, app.answers, models)
        assert_each_post_has_the_vector_of(models[2], settings, processes)
        stop(processes)


def assert_no_feed_mixes(settings: Settings, answers: list[Answer], models: list[Phoenix]) -> None:
    """Assert that each feed is of one model, and that no feed is of an earlier model than the feed before."""
    assert {each.feed.status for each in answers} <= {"ok", "degraded"}
    versions = [version for version, _ in itertools.groupby(each.feed.model_version for each in answers)]
    assert versions == [model.version for model in models]
    of_posts, store, checked = posts_of(settings), PostStore(), 0
    store.apply([unpack_post(value) for message in of_posts.messages if (value := message.value())])
    with Client(settings) as client:
        states = UserStates(client.redis)
        for model in models:
            vectors = {key: vector_in(value) for key, value in embedded(of_posts, model).items()}
            for feed, explanation in (each for each in answers if each.feed.model_version == model.version):
                assert explanation.request_id == feed.request_id
                viewer = query(states.read([feed.user_id])[0], user_id=int(feed.user_id), now_ms=feed.generated_at)
                (user_vector,) = model.embed_users(history_of([viewer], store, model.config))
                for item in explanation.items:
                    if (
                        item.source == "phoenix_retrieval"
                        and (vector := vectors.get(item.post_id.encode())) is not None
                    ):
                        assert item.retrieval_score == pytest.approx(float(vector @ user_vector), abs=PRODUCT_TOLERANCE)
                        checked += 1
    assert checked > len(answers)


def assert_each_post_has_the_vector_of(model: Phoenix, settings: Settings, processes: dict[str, Process]) -> None:
    def all_have() -> bool:
        found, expected = vectors(settings), embedded(posts_of(settings), model)
        return found.keys() == expected.keys() and all(
            unpack_embedding(value).model_version == model.version
            and np.allclose(vector_in(value), vector_in(expected[key]), atol=1e-5)
            for key, value in found.items()
        )

    assert eventually(all_have), outputs(processes)
    output = processes["flows.embeddings"].output()
    assert len(re.findall(f"all posts have vectors of model {model.version}", output)) == settings.partitions


def posts_of(settings: Settings) -> Batch:
    """The last record of each post."""
    last = {message.key(): message for messages in scan(settings, ["thunder-posts"]) for message in messages}
    return Batch("thunder-posts", 0, list(last.values()))


def embedded(posts: Batch, model: Phoenix) -> dict[bytes, bytes]:
    """The records of `post-embeddings` that the flow writes for posts with one model."""
    return {
        record.key: record.value for record in Embed()(EmbeddingTask(posts, (model,))) if record.key and record.value
    }


def vectors(settings: Settings) -> dict[bytes, bytes]:
    """The last record of each key in `post-embeddings`, without tombstones."""
    last = {message.key(): message.value() for each in scan(settings, ["post-embeddings"]) for message in each}
    return {key: value for key, value in last.items() if isinstance(key, bytes) and value is not None}


def vector_in(value: bytes) -> np.ndarray:
    return np.frombuffer(unpack_embedding(value).vector, "<f4")
