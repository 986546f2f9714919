"""The workload of the feed benchmarks: posts of two days with vectors; viewers with many follows and full histories.

All data is written in the form that flows write, so a worker can serve it without flows. Vectors are random: a point
for each author, and posts around the author's point. The cost of a search does not depend on the values of the vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import thunder_world
from benchmarks.thunder_world import ThunderWorld, post_id
from infra.ports.clock import now_ms
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import Client
from infra.ports.settings import Settings
from infra.terminal.progress import Advance
from thunder_ingest.events import IMPRESSION, PostEmbedding, key_of_id, pack
from thunder_ingest.users.entries import EDGE, HISTORY, UserUpdate
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

FOLLOWS: Final = 500
"""Mean number of follows (log-normal): the median viewer follows 390 authors, one in a hundred follows 2,000."""
POSITIONS: Final = 1_024
"""Posts of a history, the maximum."""
ACTED_ON: Final = 0.3
KINDS: Final = (0.9, 0.04, 0.04, 0.02)
"""Shares of originals, replies, reposts and quotes. Filters drop few of these, so the ranker gets nearly all."""
FIRST_VIEWER: Final = 5_000_000
CHUNK: Final = 10_000
_SIGMA: Final = 0.7
_SPREAD: Final = 0.5  # standard deviation of an author's posts around the author's point, which has deviation 1
_APPENDED: Final = 40  # batches of a history, so that base and tails both have entries
_MARGIN_MS: Final = 3_600_000  # posts that do not expire during the run


@dataclass(frozen=True)
class Viewer:
    """A viewer with follows and history."""

    user_id: int
    following: NDArray[np.int64]
    history: NDArray[Any]  # dtype HISTORY, oldest first


def world_of(posts: int, authors: int, seed: int) -> ThunderWorld:
    """Return posts of the last two days."""
    world = thunder_world.generate(posts, authors, seed, KINDS)
    shift = now_ms() - thunder_world.NOW_MS
    age = np.maximum(thunder_world.NOW_MS - world.created_at - _MARGIN_MS, 0)
    return replace(world, created_at=thunder_world.NOW_MS - age + shift)


def vectors_of(world: ThunderWorld, dim: int, begin: int, end: int) -> NDArray[np.float32]:
    """Return unit vectors [n, dim] of posts."""
    authors = world.author_id[begin:end]
    points = _points(world.authors, dim)[authors]
    vectors = points + _SPREAD * np.random.default_rng(begin).standard_normal(points.shape, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@lru_cache(maxsize=1)
def _points(authors: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(11).standard_normal((authors + 1, dim), np.float32)


def viewers_of(world: ThunderWorld, count: int, seed: int) -> list[Viewer]:
    """Return viewers who follow random authors, half of them by popularity, with a history of random older posts."""
    random = np.random.default_rng(seed)
    followed = random.lognormal(np.log(FOLLOWS) - _SIGMA**2 / 2, _SIGMA, count)
    return [
        Viewer(FIRST_VIEWER + index, _following(world, int(follows), random), _history(world, random))
        for index, follows in enumerate(np.clip(followed, 10, min(10_000, world.authors // 4)))
    ]


def _following(world: ThunderWorld, follows: int, random: np.random.Generator) -> NDArray[np.int64]:
    by_popularity = world.author_id[random.integers(0, len(world.author_id), follows // 2)]
    at_random = random.integers(1, world.authors + 1, follows - follows // 2)
    return np.unique(np.concatenate([by_popularity, at_random]))


def _history(world: ThunderWorld, random: np.random.Generator) -> NDArray[Any]:
    seen = np.sort(random.integers(0, max(1, len(world.kind) // 2), POSITIONS))
    entries = np.zeros(POSITIONS, HISTORY)
    entries["at"] = world.created_at[seen] + random.integers(1_000, 3_600_000, POSITIONS)
    entries["post_id"] = [post_id(index) for index in seen.tolist()]
    entries["author_id"] = world.author_id[seen]
    entries["action"] = IMPRESSION
    acted = np.flatnonzero(random.random(POSITIONS) < ACTED_ON)
    actions = entries[acted]
    actions["at"] += 2_000
    actions["action"] = random.choice([0, 0, 0, 2, 4, 6, 10], len(acted))  # a favorite, a repost, a click, a view …
    both = np.concatenate([entries, actions])
    return np.asarray(both[np.argsort(both["at"], kind="stable")])


def records_of(world: ThunderWorld, version: str, dim: int) -> Iterator[list[Record]]:
    """Iterate over changelog records of posts and vectors, in chunks."""
    for begin in range(0, len(world.kind), CHUNK):
        posts = world.posts(begin, begin + CHUNK)
        vectors = vectors_of(world, dim, begin, begin + CHUNK)
        keys = [key_of_id(post.post_id) for post in posts]
        yield [Record("thunder-posts", key, pack(post)) for key, post in zip(keys, posts, strict=True)]
        yield [
            Record(
                "post-embeddings", key, pack(PostEmbedding(post_id=post.post_id, model_version=version, vector=packed))
            )
            for key, post, packed in zip(keys, posts, (each.astype("<f4").tobytes() for each in vectors), strict=True)
        ]


def publish(settings: Settings, world: ThunderWorld, version: str, dim: int, advance: Advance) -> None:
    """Write posts and vectors to their topics."""
    # random vectors do not compress, and they are nearly all of the data
    publisher = KafkaProducer(settings, options={"compression.type": "none", "queue.buffering.max.messages": 200_000})
    for number, records in enumerate(records_of(world, version, dim), 1):
        publisher.publish(records)
        advance(number * CHUNK / 2, len(world.kind))
    publisher.flush()


def write_viewers(client: Client, viewers: Sequence[Viewer], advance: Advance) -> None:
    """Write the state of viewers to Redis: follows first, then histories in batches, by time."""
    declare_whole(client)
    users = UserStates(client)
    users.append([UserUpdate(str(viewer.user_id), "following", _edges(viewer)) for viewer in viewers], "s0-0-0")
    parts = [np.array_split(viewer.history, _APPENDED) for viewer in viewers]
    for batch in range(_APPENDED):
        updates = [
            UserUpdate(str(viewer.user_id), "history", part[batch].tobytes())
            for viewer, part in zip(viewers, parts, strict=True)
        ]
        users.append(updates, f"e0-{batch}-{batch}")
        advance(batch + 1, _APPENDED)


def _edges(viewer: Viewer) -> bytes:
    edges = np.zeros(len(viewer.following), EDGE)
    edges["at"], edges["target_id"] = 1_700_000_000_000, viewer.following
    return edges.tobytes()
