"""The impressions of the generated world: sessions, and the posts shown in each from top to bottom.

A plausible ranking, not an ideal one, selects the posts. Candidates come from followed accounts, topics of interest and
a random draw, with a preference for recent posts. Each position shows the candidate with the best sum of affinity,
author's popularity and Gumbel noise. A session is sorted by that score.

Glossary of shapes:

    s: impressions, or positions of sessions

Times are offsets from the start of the world in ms.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from infra.world.affinity import Affinity
from infra.world.config import WorldConfig
from infra.world.people import Accounts, Bools, Floats, Ints
from infra.world.posts import Posts, draw_columns
from infra.world.social import FOLLOW, SUBSCRIBE, Edges, Pairs

FIRST_SESSIONS: Final = 0.04  # share of the span before the first session, because there are few posts yet
MEAN_SESSION: Final = 12  # positions
LONGEST_SESSION: Final = 40
BY_TOPIC, BY_FOLLOWING, BY_CHANCE = 3, 2, 1  # candidates of each source for each position


@dataclass(frozen=True, slots=True)
class Impressions:
    """Columns over impressions; `session` and `position` are -1 outside a feed."""

    viewer: Ints  # [s] account
    post: Ints  # [s]
    at: Ints  # [s] ms
    session: Ints  # [s]
    position: Ints  # [s] 0 is the top
    affinity: Floats  # [s]
    dwell_ms: Ints  # [s]

    def __len__(self) -> int:
        return len(self.post)

    def take(self, chosen: Bools | Ints) -> Self:
        """Select impressions by a mask or by indices."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))

    def __add__(self, other: "Impressions") -> "Impressions":
        return Impressions(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


class Timeline:
    """Posts grouped by a key, such as topic or author, and sorted by time of creation."""

    def __init__(self, group: Ints, created: Ints, span_ms: int) -> None:
        self._width = span_ms + 1
        keys = group * self._width + created
        self._posts = keys.argsort(kind="stable")
        self._keys = keys[self._posts]

    def draw(self, rng: np.random.Generator, group: Ints, moment: Ints) -> Ints:
        """Draw for each group and moment [s] an earlier post [s], with a preference for recent ones; -1 for none."""
        start = self._keys.searchsorted(group * self._width)
        end = self._keys.searchsorted(group * self._width + moment)
        back = np.floor((end - start) * rng.random(group.shape) ** 2.5).astype(np.int64)
        return np.where(end > start, self._posts[(end - 1 - back).clip(0)], -1)


class Exposure:
    """Draws sessions and their impressions."""

    def __init__(self, config: WorldConfig, accounts: Accounts, posts: Posts, edges: Edges, affinity: Affinity) -> None:
        self._config, self._accounts, self._posts, self._affinity = config, accounts, posts, affinity
        self._subscribed = Pairs.of(edges.take(edges.kind == SUBSCRIBE), len(accounts))
        self._gone = posts.gone
        self._original_author = posts.author[posts.content]
        self._reach: Floats = (np.log(accounts.popularity) / 3).astype(np.float32)[posts.author]
        self._followed = _Followed(edges.take(edges.kind == FOLLOW), len(accounts))
        self._by_topic = Timeline(posts.topic, posts.created, config.span_ms)
        self._by_author = Timeline(posts.author, posts.created, config.span_ms)
        self._all = Timeline(np.zeros(len(posts), np.int64), posts.created, config.span_ms)

    def draw(self, rng: np.random.Generator, impressions: int) -> Impressions:
        """Draw about this number of impressions, ordered by session and position; no viewer sees content twice."""
        viewer, begun, session = self._places(rng, impressions)
        post, affinity, appeal = self._shown(rng, viewer, begun)
        order = np.lexsort((-appeal, session))
        order = order[np.isfinite(appeal[order])]
        viewer, session, post, affinity = viewer[order], session[order], post[order], affinity[order]
        dwell_ms = self._dwell_ms(rng, affinity)
        at, position = _top_to_bottom(session, begun[order], dwell_ms)
        shown = Impressions(viewer, post, at, session, position, affinity, dwell_ms)
        in_time = self._may_see(viewer, post, at) & (at + dwell_ms <= self._config.span_ms)
        return shown.take(self._first_seen(shown) & in_time)

    def _places(self, rng: np.random.Generator, impressions: int) -> tuple[Ints, Ints, Ints]:
        """Return viewer, session start and session of each position; the first sessions cover each viewer once."""
        users, span_ms = self._config.users, self._config.span_ms
        sessions = -(-impressions // MEAN_SESSION)
        weights = self._accounts.productivity[:users].astype(np.float64)
        viewer = np.concatenate([rng.permutation(users), rng.choice(users, sessions, p=weights / weights.sum())])
        viewer = viewer[:sessions]
        begun = rng.integers(int(FIRST_SESSIONS * span_ms), span_ms, sessions, endpoint=True)
        length = rng.geometric(1 / MEAN_SESSION, sessions).clip(3, LONGEST_SESSION)
        session = np.repeat(np.arange(sessions), length)
        return viewer[session], begun[session], session

    def _shown(self, rng: np.random.Generator, viewer: Ints, begun: Ints) -> tuple[Ints, Floats, Floats]:
        """Return the best candidate of each position, its affinity, and its score; -inf without a candidate."""
        moment = (begun / self._config.span_ms).astype(np.float32)
        post = np.full(len(viewer), -1)
        affinity, best = np.zeros(len(viewer), np.float32), np.full(len(viewer), -np.inf, np.float32)
        for proposed in self._proposals(rng, viewer, begun, moment):
            suits = self._affinity.pairs(viewer, proposed, moment)
            appeal = 5 * suits + self._reach[proposed] + rng.gumbel(size=len(viewer)).astype(np.float32)
            better = self._may_see(viewer, proposed, begun) & (appeal > best)
            post[better], affinity[better], best[better] = proposed[better], suits[better], appeal[better]
        return post, affinity, best

    def _proposals(self, rng: np.random.Generator, viewer: Ints, begun: Ints, moment: Floats) -> list[Ints]:
        tastes = self._accounts.tastes(viewer, moment)
        topics = [draw_columns(rng, tastes) for _ in range(BY_TOPIC)]
        followed = [self._followed.draw(rng, viewer) for _ in range(BY_FOLLOWING)]
        return [
            *(self._by_topic.draw(rng, topic, begun) for topic in topics),
            *(self._by_author.draw(rng, author, begun) for author in followed),
            *(self._all.draw(rng, np.zeros_like(viewer), begun) for _ in range(BY_CHANCE)),
        ]

    def _may_see(self, viewer: Ints, post: Ints, moment: Ints) -> Bools:
        author = self._posts.author[post]
        others = (author != viewer) & (self._original_author[post] != viewer)
        paid = ~self._posts.subscriber_only[post] | self._subscribed.at(viewer, author, moment)
        allowed: Bools = (post >= 0) & others & paid & (moment < self._gone[post])
        return allowed

    def _dwell_ms(self, rng: np.random.Generator, affinity: Floats) -> Ints:
        """Draw log-normal dwell times: about 1 s without affinity, 10 s and more with high affinity."""
        dwell_ms: Ints = (
            rng.lognormal(np.log(1_200) + 6 * affinity.clip(max=0.5), 0.7).clip(200, 300_000).astype(np.int64)
        )
        return dwell_ms

    def _first_seen(self, shown: Impressions) -> Bools:
        """True for the first impression of each content by a viewer; a repost has the content of its source."""
        pair = shown.viewer * len(self._posts) + self._posts.content[shown.post]
        order = np.lexsort((shown.at, pair))
        _, first = np.unique(pair[order], return_index=True)
        chosen = np.zeros(len(shown), np.bool_)
        chosen[order[first]] = True
        return chosen


class _Followed:
    """Draws one of the accounts that a viewer follows."""

    def __init__(self, follows: Edges, accounts: int) -> None:
        order = follows.user.argsort(kind="stable")
        self._targets = np.append(follows.target[order], 0)  # sentinel, so that an index one past the end is valid
        self._start = follows.user[order].searchsorted(np.arange(accounts + 1))

    def draw(self, rng: np.random.Generator, viewer: Ints) -> Ints:
        """Draw a followed account [s] for each viewer [s], and an arbitrary account for a viewer without follows."""
        start, end = self._start[viewer], self._start[viewer + 1]
        return self._targets[start + np.floor((end - start) * rng.random(viewer.shape)).astype(np.int64)]


def _top_to_bottom(session: Ints, begun: Ints, dwell_ms: Ints) -> tuple[Ints, Ints]:
    """Return times and positions; in a session, an impression begins 300 ms after the previous one's dwell time."""
    _, first, place = np.unique(session, return_index=True, return_inverse=True)
    passed = np.cumsum(dwell_ms + 300) - (dwell_ms + 300)
    at = begun + passed - passed[first][place]
    return at, np.arange(len(session)) - first[place]
