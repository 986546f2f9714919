"""The posts of the generated world as columns: author, time, kind, parent, content, labels and deletion.

Glossary of shapes:

    p: posts, by time of creation
    t: topics

Times are offsets from the start of the world in ms.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.world.config import WorldConfig
from infra.world.people import Accounts, Bools, Floats, Ints
from thunder_ingest.events import ORIGINAL, REPLY, REPOST

NEVER: Final = 1 << 60
LABELS: Final = ("spam", "adult", "violence", "gore")
SPAM: Final = 0
SHARE_OF_KINDS: Final = (0.62, 0.18, 0.10, 0.10)  # original, reply, repost, quote
SHARE_BY_AUTHORS: Final = (0.92, 0.45, 0.4, 0.6)  # share of each kind that authors write; viewers write the rest
CANDIDATE_PARENTS: Final = 8


@dataclass(frozen=True, slots=True)
class Posts:
    """Columns over posts."""

    author: Ints  # [p] account
    created: Ints  # [p] ascending
    kind: NDArray[np.uint8]  # [p] ORIGINAL, REPLY, REPOST or QUOTE
    parent: Ints  # [p] the post replied to, reposted or quoted; -1 for originals; never a repost
    root: Ints  # [p] first post of the conversation; the post itself unless it is a reply
    topic: Ints  # [p] main topic
    aside: Ints  # [p] second topic, or the main topic
    quality: Floats  # [p] 0 … 1
    language: Ints  # [p]
    photos: Ints  # [p]
    video_ms: Ints  # [p] 0: no video
    subscriber_only: Bools  # [p]
    label: Ints  # [p] index of LABELS, -1 for none
    labeled: Ints  # [p] time of the label, or NEVER
    unlabeled: Ints  # [p] time of the label's removal, or NEVER
    deleted: Ints  # [p] time of deletion, or NEVER

    def __len__(self) -> int:
        return len(self.author)

    @property
    def content(self) -> Ints:
        """The posts with the visible content [p]: the source of a repost, otherwise the post itself."""
        return np.where(self.kind == REPOST, self.parent, np.arange(len(self)))

    @property
    def gone(self) -> Ints:
        """The times [p] from which on posts are hidden: deletion, or a label that is not removed."""
        own = np.minimum(self.deleted, np.where(self.unlabeled == NEVER, self.labeled, NEVER))
        return np.minimum(own, own[self.content])

    def mix(self, topics: int) -> Floats:
        """Return the topic distribution of each post, [p, t]; each row sums to 1."""
        mixed = np.zeros((len(self), topics), np.float32)
        rows = np.arange(len(self))
        np.add.at(mixed, (rows, self.topic), 0.8)
        np.add.at(mixed, (rows, self.aside), 0.2)
        return mixed


def draw_posts(rng: np.random.Generator, config: WorldConfig, accounts: Accounts) -> Posts:
    """Draw times, kinds and authors, then parents, then content, then labels and deletions."""
    p = config.posts
    created = np.sort(rng.integers(config.span_ms // 100, config.span_ms, p, endpoint=True))
    kind = rng.choice(4, p, p=SHARE_OF_KINDS).astype(np.uint8)
    kind[0] = ORIGINAL
    author = _authors(rng, accounts, kind)
    main, aside = _topics_of_authors(rng, accounts, author, created / config.span_ms)
    parent = _parents(rng, accounts, author, kind, main)
    beginning = _followed_up(np.where(parent < 0, np.arange(p), parent))
    language = np.where(kind == REPOST, accounts.language[author[parent]], accounts.language[author])
    photos, video_ms = _media(rng, kind)
    content = np.where(kind == REPOST, parent, np.arange(p))
    posts = Posts(
        author=author,
        created=created,
        kind=kind,
        parent=parent,
        root=_followed_up(np.where(kind == REPLY, parent, np.arange(p))),
        topic=main[beginning],
        aside=np.where(kind == ORIGINAL, aside, aside[beginning]),
        quality=rng.beta(2, 2, p).astype(np.float32)[content],
        language=language,
        photos=photos,
        video_ms=video_ms,
        subscriber_only=_subscriber_only(rng, accounts, author, kind, parent),
        label=np.full(p, -1),
        labeled=np.full(p, NEVER),
        unlabeled=np.full(p, NEVER),
        deleted=np.full(p, NEVER),
    )
    return _with_fates(rng, config, posts)


def _authors(rng: np.random.Generator, accounts: Accounts, kind: NDArray[np.uint8]) -> Ints:
    by_author = rng.random(len(kind)) < np.array(SHARE_BY_AUTHORS)[kind]
    chosen = np.empty(len(kind), np.int64)
    for wanted in (True, False):
        group = np.flatnonzero(accounts.is_author == wanted)
        weights = accounts.productivity[group].astype(np.float64)
        rows = np.flatnonzero(by_author == wanted)
        chosen[rows] = rng.choice(group, len(rows), p=weights / weights.sum())
    return chosen


def _topics_of_authors(
    rng: np.random.Generator, accounts: Accounts, author: Ints, moment: NDArray[np.float64]
) -> tuple[Ints, Ints]:
    """Draw a main and a second topic for each post from its author's preferences at that moment."""
    tastes = accounts.tastes(author, moment.astype(np.float32))
    main, aside = (draw_columns(rng, tastes) for _ in range(2))
    return main, aside


def draw_columns(rng: np.random.Generator, weights: Floats) -> Ints:
    """Draw a column [n] for each row of probabilities [n, t] (categorical distribution)."""
    reached = weights.cumsum(axis=1)
    drawn: Ints = (rng.random((len(weights), 1)) * reached[:, -1:] >= reached).sum(axis=1)
    return drawn.clip(max=weights.shape[1] - 1)


def _parents(rng: np.random.Generator, accounts: Accounts, author: Ints, kind: NDArray[np.uint8], topic: Ints) -> Ints:
    """Choose the parent of each reply, repost or quote: the most appealing of a few recent posts, with Gumbel noise."""
    open_posts = np.flatnonzero(kind != REPOST)
    rows = np.flatnonzero(kind != ORIGINAL)
    earlier = np.searchsorted(open_posts, rows)  # number of earlier posts, at least 1
    back = np.floor(earlier[:, None] * rng.random((len(rows), CANDIDATE_PARENTS)) ** 2).astype(np.int64)
    candidates = open_posts[earlier[:, None] - 1 - back]
    taste = accounts.early[author[rows, None], topic[candidates]]
    understood = accounts.reads[author[rows, None], accounts.language[author[candidates]]]
    appeal = 4 * taste + 2 * understood + np.log(accounts.popularity[author[candidates]]) / 2
    appeal += rng.gumbel(size=appeal.shape) - 20 * (author[candidates] == author[rows, None])
    parent = np.full(len(kind), -1)
    parent[rows] = np.take_along_axis(candidates, appeal.argmax(axis=1)[:, None], axis=1)[:, 0]
    return parent


def _followed_up(link: Ints) -> Ints:
    """Follow the links of each post to the end of the chain; a post at the end links to itself."""
    while not np.array_equal(link, further := link[link]):
        link = further
    return link


def _media(rng: np.random.Generator, kind: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Draw numbers of photos and lengths of videos in ms; no post has both, and a repost has none."""
    drawn = rng.random(len(kind))
    shows = np.array([1.0, 0.3, 0.0, 0.4])[kind]
    photos = np.where(drawn < 0.3 * shows, rng.integers(1, 5, len(kind)), 0)
    duration_ms = np.clip(rng.lognormal(np.log(25_000), 1.0, len(kind)), 3_000, 600_000).astype(np.int64)
    return photos, np.where(drawn > 1 - 0.15 * shows, duration_ms, 0)


def _subscriber_only(
    rng: np.random.Generator, accounts: Accounts, author: Ints, kind: NDArray[np.uint8], parent: Ints
) -> Bools:
    """Make some originals without answers visible to subscribers only, for a tenth of the authors."""
    sells = accounts.is_author & (rng.random(len(accounts)) < 0.1)
    sells[-1] = True
    chosen: Bools = sells[author] & (kind == ORIGINAL) & (rng.random(len(kind)) < 0.4)
    chosen[parent[parent >= 0]] = False
    return chosen


def _with_fates(rng: np.random.Generator, config: WorldConfig, posts: Posts) -> Posts:
    """Draw deletions, labels and removals of labels; drop those after the end of the world."""
    p, last_answer = len(posts), posts.created.copy()
    answers = posts.parent >= 0
    np.maximum.at(last_answer, posts.parent[answers], posts.created[answers])
    deleted = np.where(rng.random(p) < 0.03, last_answer + _delays(rng, config.span_ms / 12, p), NEVER)
    labelable = (posts.kind == ORIGINAL) & (rng.random(p) < 0.07)
    labeled = np.where(labelable, last_answer + _delays(rng, config.span_ms / 24, p), NEVER)
    unlabeled = np.where(rng.random(p) < 0.3, labeled + _delays(rng, config.span_ms / 24, p), NEVER)
    for moment in (deleted, labeled, unlabeled):
        moment[moment > config.span_ms] = NEVER
    label = np.where(labeled < NEVER, rng.choice(len(LABELS), p, p=(0.5, 0.25, 0.15, 0.1)), -1)
    return replace(posts, deleted=deleted, label=label, labeled=labeled, unlabeled=unlabeled)


def _delays(rng: np.random.Generator, mean_ms: float, count: int) -> Ints:
    return 1 + rng.exponential(mean_ms, count).astype(np.int64)
