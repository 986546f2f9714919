"""The social graph of the generated world: follows, blocks, mutes, subscriptions and muted keywords.

Glossary of shapes:

    n: accounts
    e: edges
    *s: any axes, such as impressions

Times are offsets from the start of the world in ms.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np

from infra.world.config import WorldConfig
from infra.world.people import Accounts, Bools, Ints, draw_follows
from infra.world.posts import NEVER, Posts
from infra.world.topics import ENGLISH, TOPICS

FOLLOW, BLOCK, MUTE, SUBSCRIBE = range(4)
BLOCKS_PER_ACCOUNT: Final = 0.15
MUTES_PER_ACCOUNT: Final = 0.2


@dataclass(frozen=True, slots=True)
class Edges:
    """Columns over edges."""

    kind: Ints  # [e] FOLLOW, BLOCK, MUTE or SUBSCRIBE
    user: Ints  # [e] account
    target: Ints  # [e] account
    at: Ints  # [e]
    undone: Ints  # [e] time of the undo, or NEVER

    def take(self, chosen: Bools | Ints) -> Self:
        """Select edges by a mask or by indices."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))

    def __add__(self, other: "Edges") -> "Edges":
        return Edges(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


class MutedKeyword(NamedTuple):
    """An account's muted keyword."""

    user: int
    keyword: str
    at: int
    undone: int


class Pairs:
    """The first edge of each pair of accounts: its start and its end, for vectorised lookups."""

    def __init__(self, accounts: int, user: Ints, target: Ints, at: Ints, undone: Ints) -> None:
        self._accounts = accounts
        keys = user * accounts + target
        order = np.lexsort((at, keys))
        self._keys, first = np.unique(keys[order], return_index=True)
        self._at, self._undone = at[order][first], undone[order][first]

    @classmethod
    def of(cls, edges: Edges, accounts: int) -> "Pairs":
        """Return the pairs (user, target) of edges."""
        return cls(accounts, edges.user, edges.target, edges.at, edges.undone)

    @classmethod
    def hidden(cls, edges: Edges, accounts: int) -> "Pairs":
        """Return pairs (viewer, hidden account): muted and blocked accounts, and accounts that block the viewer."""
        blocks, mutes = edges.take(edges.kind == BLOCK), edges.take(edges.kind == MUTE)
        users = np.concatenate([blocks.user, blocks.target, mutes.user])
        targets = np.concatenate([blocks.target, blocks.user, mutes.target])
        times = np.concatenate([blocks.at, blocks.at, mutes.at])
        return cls(accounts, users, targets, times, np.full(len(times), NEVER))

    def since(self, user: Ints, target: Ints) -> Ints:
        """Return the start of each pair [*s], NEVER for an unknown pair."""
        return self._look_up(self._at, user, target)

    def at(self, user: Ints, target: Ints, moment: Ints) -> Bools:
        """True for pairs [*s] with an edge at the moment [*s]."""
        begun = self.since(user, target) <= moment
        together: Bools = begun & (moment < self._look_up(self._undone, user, target))
        return together

    def _look_up(self, times: Ints, user: Ints, target: Ints) -> Ints:
        wanted = user * self._accounts + target
        if not len(self._keys):
            return np.full(wanted.shape, NEVER)
        place = self._keys.searchsorted(wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, times[place], NEVER)


def answering(posts: Posts, accounts: int) -> Pairs:
    """Return pairs of accounts with an answer of one to the other, in both directions; they never block or mute."""
    rows = np.flatnonzero(posts.parent >= 0)
    one, other = posts.author[rows], posts.author[posts.parent[rows]]
    zeros = np.zeros(2 * len(rows), np.int64)
    return Pairs(accounts, np.concatenate([one, other]), np.concatenate([other, one]), zeros, zeros + NEVER)


def draw_edges(rng: np.random.Generator, config: WorldConfig, accounts: Accounts, posts: Posts) -> Edges:
    """Draw the edges that do not come from engagements. Most follows exist from the start of the world."""
    user, target = draw_follows(rng, accounts)
    early = rng.random(len(user)) < 0.85
    at = np.where(early, rng.integers(1, config.span_ms // 100, len(user)), _times(rng, config, len(user)))
    follows = _edges(rng, config, FOLLOW, user, target, at, undone=0.03)
    edges = follows + _subscriptions(rng, config, follows, posts)
    for kind, share in ((BLOCK, BLOCKS_PER_ACCOUNT), (MUTE, MUTES_PER_ACCOUNT)):
        edges += _aversions(rng, config, accounts, posts, kind, share)
    return edges


def _subscriptions(rng: np.random.Generator, config: WorldConfig, follows: Edges, posts: Posts) -> Edges:
    """Subscribe a quarter of the followers of each author with posts for subscribers."""
    sells = np.isin(follows.target, posts.author[posts.subscriber_only])
    buyers = follows.take(sells & (rng.random(len(follows.at)) < 0.25))
    at = buyers.at + 1 + (rng.random(len(buyers.at)) * (config.span_ms - buyers.at) / 10).astype(np.int64)
    happening = at <= config.span_ms
    buyers, at = buyers.take(happening), at[happening]
    return _edges(rng, config, SUBSCRIBE, buyers.user, buyers.target, at, undone=0.05)


def _aversions(
    rng: np.random.Generator, config: WorldConfig, accounts: Accounts, posts: Posts, kind: int, share: float
) -> Edges:
    """Draw blocks or mutes between random accounts that never answer each other."""
    n = len(accounts)
    pairs = np.unique(rng.integers(0, n, (1 + int(share * n), 2)), axis=0)
    user, target = pairs[(pairs[:, 0] != pairs[:, 1])].T
    free = answering(posts, n).since(user, target) == NEVER
    user, target = user[free], target[free]
    return _edges(rng, config, kind, user, target, _times(rng, config, len(user)), undone=0.15)


def draw_muted_keywords(rng: np.random.Generator, config: WorldConfig, accounts: Accounts) -> list[MutedKeyword]:
    """Draw one or two muted keywords for a fifth of the viewers, from topics without interest to them."""
    viewers = np.flatnonzero(rng.random(config.users) < 0.2)
    viewers = np.unique(np.concatenate([viewers, [int(rng.integers(config.users))]]))
    rows = []
    for viewer in np.repeat(viewers, rng.integers(1, 3, len(viewers))).tolist():
        dull = np.flatnonzero(accounts.early[viewer] + accounts.late[viewer] == 0)
        words = TOPICS[int(rng.choice(dull)) if len(dull) else 0].words[ENGLISH]
        at, undone = np.sort(rng.integers(1, config.span_ms, 2, endpoint=True)).tolist()
        gone = rng.random() < 0.15 and at < undone
        rows.append(MutedKeyword(viewer, words[int(rng.integers(len(words)))], at, undone if gone else NEVER))
    return rows


def _edges(
    rng: np.random.Generator, config: WorldConfig, kind: int, user: Ints, target: Ints, at: Ints, undone: float
) -> Edges:
    """Return edges of one kind; the share `undone` ends at a random later time within the world's span."""
    later = at + 1 + (rng.random(len(at)) * (config.span_ms - at)).astype(np.int64)
    ends = (rng.random(len(at)) < undone) & (later <= config.span_ms)
    return Edges(np.full(len(at), kind), user, target, at, np.where(ends, later, NEVER))


def _times(rng: np.random.Generator, config: WorldConfig, count: int) -> Ints:
    return rng.integers(config.span_ms // 100, config.span_ms, count, endpoint=True)
