"""The workload of the post store's benchmark: two days of posts, with Zipf-distributed authors, and viewers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from thunder_ingest.events import ORIGINAL, QUOTE, REPLY, REPOST, Post, PostCounts

SPAN_MS: Final = 172_800_000
NOW_MS: Final = 1_780_000_000_000
_FIRST_ID: Final = 1 << 60
_KINDS: Final = (ORIGINAL, REPLY, REPOST, QUOTE)
_SHARES: Final = (0.55, 0.25, 0.15, 0.05)
_WORDS_MEDIAN: Final = 10.0
_WORDS_SIGMA: Final = 0.6
_MEMORY: Final = 50_000
"""A reply, repost or quote refers to one of this number of earlier posts."""


@dataclass(frozen=True)
class ThunderWorld:
    """Posts in order of time, as arrays; authors are 1 to `authors`, the busiest first (Zipf, exponent 1)."""

    authors: int
    author_id: NDArray[np.int64]
    created_at: NDArray[np.int64]
    kind: NDArray[np.int64]
    refers_to: NDArray[np.int64]  # index of an earlier post, -1 for originals and for references to unknown posts
    root: NDArray[np.int64]  # index of the first post of the conversation
    words: NDArray[np.int64]

    def posts(self, begin: int, end: int) -> list[Post]:
        """Posts of a part of the world as records of `thunder-posts`."""
        return list(self._posts(begin, min(end, len(self.kind))))

    def _posts(self, begin: int, end: int) -> Iterator[Post]:
        tokens = np.random.default_rng(begin).integers(1, 2**32, 64, np.uint32).tobytes()
        columns = (self.author_id, self.created_at, self.kind, self.refers_to, self.root, self.words)
        rows = zip(*(column[begin:end].tolist() for column in columns), strict=True)
        for index, (author_id, created_at, kind, refers_to, root, words) in enumerate(rows, begin):
            referred = post_id(refers_to) if refers_to >= 0 else _FIRST_ID - 1 - index
            yield Post(
                post_id=post_id(index),
                author_id=author_id,
                created_at=created_at,
                at=created_at,
                kind=kind,
                lang="en",
                conversation_id=post_id(root),
                in_reply_to_post_id=referred if kind == REPLY else 0,
                source_post_id=referred if kind in (REPOST, QUOTE) else 0,
                video_ms=20_000 if index % 11 == 0 and kind == ORIGINAL else 0,
                tokens=tokens[: 4 * words],
            )

    def counts(self, begin: int, end: int) -> list[PostCounts]:
        """Running totals of the same posts."""
        return [PostCounts(post_id=post_id(index), at=NOW_MS, totals=[index % 50] * 20) for index in range(begin, end)]


def post_id(index: int) -> int:
    """The id of a post of the world."""
    return _FIRST_ID + 64 * index


def generate(posts: int, authors: int, seed: int, kinds: Sequence[float] = _SHARES) -> ThunderWorld:
    """A world; `kinds` are the shares of originals, replies, reposts and quotes."""
    rng = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, authors + 1))
    author_id = np.searchsorted(shares, rng.random(posts) * shares[-1]) + 1
    kind = rng.choice(np.array(_KINDS), posts, p=kinds)
    index = np.arange(posts)
    back = 1 + (rng.random(posts) * np.minimum(index, _MEMORY)).astype(np.int64)
    refers_to = np.where((kind == ORIGINAL) | (rng.random(posts) < 0.2) | (index == 0), -1, index - back)
    root = index.copy()
    for answer in np.flatnonzero((kind == REPLY) & (refers_to >= 0)).tolist():
        root[answer] = root[refers_to[answer]]
    return ThunderWorld(
        authors=authors,
        author_id=author_id.astype(np.int64),
        created_at=NOW_MS - SPAN_MS + 1 + np.sort(rng.integers(0, SPAN_MS - 1, posts)),
        kind=kind.astype(np.int64),
        refers_to=refers_to,
        root=root,
        words=np.clip(rng.lognormal(np.log(_WORDS_MEDIAN), _WORDS_SIGMA, posts), 1, 64).astype(np.int64),
    )


@dataclass(frozen=True)
class Viewer:
    """The follows and the excluded posts of a viewer."""

    following: NDArray[np.int64]
    excluded: NDArray[np.int64]


def viewers(world: ThunderWorld, count: int, follows: int, excluded: int, *, popular: bool, seed: int) -> list[Viewer]:
    """Viewers who follow authors at random, half of them by popularity if `popular`.

    What is excluded are newer posts, half of them by those whom the viewer follows.
    """
    rng = np.random.default_rng(seed)
    follows = min(follows, world.authors // 2)
    busiest_first = np.cumsum(1 / np.arange(1, world.authors + 1))

    def viewer() -> Viewer:
        drawn: NDArray[Any] = rng.permutation(world.authors)[:follows] + 1
        if popular:
            by_popularity = np.searchsorted(busiest_first, rng.random(20 * follows) * busiest_first[-1]) + 1
            _, first = np.unique(by_popularity, return_index=True)
            drawn[: follows // 2] = by_popularity[np.sort(first)][: follows // 2]
        newest = np.arange(len(world.kind) // 2, len(world.kind))
        theirs = newest[np.isin(world.author_id[newest], drawn)]
        ids = np.concatenate([rng.permutation(theirs)[: excluded // 2], rng.permutation(newest)[: excluded // 2]])
        return Viewer(np.unique(drawn), np.unique(_FIRST_ID + 64 * ids))

    return [viewer() for _ in range(count)]
