"""The generated world: its events, and the ground truth behind them."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.world.activity import draw_activity
from infra.world.affinity import Affinity
from infra.world.config import WorldConfig
from infra.world.exposure import Exposure
from infra.world.messages import FIRST_POST_ID, FIRST_USER_ID, Messages
from infra.world.people import Accounts, Floats, Ints, draw_accounts
from infra.world.posts import draw_posts
from infra.world.social import draw_edges, draw_muted_keywords
from infra.world.text import write_handles, write_texts
from infra.world.topics import TOPICS
from thunder_ingest.events import EngagementEvent, Event, GraphEvent, PostEvent

INTEREST: Final = 0.05  # smallest share of a taste that counts as an interest


@dataclass(frozen=True, slots=True)
class World:
    """Events sorted by time, none later than `until_ms`."""

    config: WorldConfig
    until_ms: int
    posts: list[PostEvent]
    engagements: list[EngagementEvent]
    graph: list[GraphEvent]
    viewers: list[int]
    """User ids of the viewers, the most active first."""
    _accounts: Accounts = field(repr=False)
    _affinity: Affinity = field(repr=False)
    _texts: list[str] = field(repr=False)
    _handles: list[str] = field(repr=False)

    def events(self) -> Iterator[Event]:
        """Iterate over all events by time; at equal times posts, then engagements, then the graph."""
        return heapq.merge(self.posts, self.engagements, self.graph, key=lambda event: event.at)

    def text(self, post_id: int) -> str:
        """Return the text of a post; a repost has the text of its source. Raises KeyError for an unknown id."""
        return self._texts[int(self._post_rows([post_id])[0])]

    def name(self, user_id: int) -> str:
        """Return the handle of an account. Raises KeyError for an unknown id."""
        return self._handles[int(self._account_rows([user_id])[0])]

    def interests(self, user_id: int) -> list[str]:
        """Return the names of an account's topics at the end of the world, by decreasing preference."""
        taste = self._accounts.late[int(self._account_rows([user_id])[0])]
        return [TOPICS[topic].name for topic in (-taste).argsort(kind="stable").tolist() if taste[topic] >= INTEREST]

    def topics(self, post_id: int) -> list[str]:
        """Return the names of a post's topics, by decreasing share. Raises KeyError for an unknown id."""
        mix = self._affinity.mix[int(self._post_rows([post_id])[0])]
        return [TOPICS[topic].name for topic in (-mix).argsort(kind="stable").tolist() if mix[topic] > 0]

    def affinity(self, user_ids: Sequence[int] | NDArray[np.int64], post_ids: Sequence[int] | Ints) -> Floats:
        """Return the affinity of accounts for posts at the end of the world: float32 [users, posts], 0 … 1.

        Raises:
            KeyError: for an unknown id.

        """
        return self._affinity.matrix(self._account_rows(user_ids), self._post_rows(post_ids))

    def _account_rows(self, ids: Sequence[int] | Ints) -> Ints:
        return _rows("account", ids, FIRST_USER_ID, len(self._handles))

    def _post_rows(self, ids: Sequence[int] | Ints) -> Ints:
        return _rows("post", ids, FIRST_POST_ID, len(self._texts))


def generate(config: WorldConfig, until_ms: int) -> World:
    """Generate a world with events in the last `config.span_ms` before `until_ms`, epoch ms.

    Equal configurations give equal worlds. `until_ms` only shifts all times.

    Raises:
        ValueError: `until_ms` is less than the span after the epoch.

    """
    if until_ms < config.span_ms:
        raise ValueError(f"a world of {config.span_ms} ms cannot end {until_ms} ms after the epoch")
    people, writing, graph, reading, words = (np.random.default_rng([config.seed, part]) for part in range(5))
    accounts = draw_accounts(people, config)
    posts = draw_posts(writing, config, accounts)
    edges = draw_edges(graph, config, accounts, posts)
    keywords = draw_muted_keywords(graph, config, accounts)
    affinity = Affinity(accounts, posts, config.topics)
    exposure = Exposure(config, accounts, posts, edges, affinity)
    shown, acts, new_edges = draw_activity(reading, config, accounts, posts, edges, exposure)
    handles = write_handles(words, accounts)
    texts = write_texts(words, posts, handles)
    messages = Messages(until_ms - config.span_ms)
    reads = np.bincount(shown.viewer, minlength=len(accounts))[: config.users]
    return World(
        config=config,
        until_ms=until_ms,
        posts=messages.of_posts(posts, texts),
        engagements=messages.of_engagements(shown, acts, posts),
        graph=messages.of_graph(edges + new_edges, keywords),
        viewers=(FIRST_USER_ID + (-reads).argsort(kind="stable")).tolist(),
        _accounts=accounts,
        _affinity=affinity,
        _texts=texts,
        _handles=handles,
    )


def _rows(what: str, ids: Sequence[int] | Ints, first: int, count: int) -> Ints:
    rows = np.asarray(ids, np.int64) - first
    unknown = (rows < 0) | (rows >= count)
    if unknown.any():
        raise KeyError(f"no {what} {int(rows[unknown][0]) + first} in this world")
    return rows
