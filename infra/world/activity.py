"""The engagements of the generated world.

Glossary of shapes:

    s: impressions
    a: acts (engagements)

Times are offsets from the start of the world in ms.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from infra.world.affinity import gate
from infra.world.config import WorldConfig
from infra.world.exposure import Exposure, Impressions
from infra.world.people import Accounts, Bools, Floats, Ints
from infra.world.posts import NEVER, Posts
from infra.world.social import BLOCK, FOLLOW, MUTE, Edges, Pairs, answering
from thunder_ingest.events import ACTION_INDEX, ACTIONS, QUOTE, REPOST, ActionName

POSITIVE: Final[dict[ActionName, float]] = {
    "favorite": 0.30,
    "photo_expand": 0.25,
    "click": 0.20,
    "profile_click": 0.05,
    "vqv": 0.50,
    "share": 0.020,
    "share_via_dm": 0.012,
    "share_via_copy_link": 0.008,
    "quoted_click": 0.15,
    "follow_author": 0.04,
}
"""Probability at full affinity and position 0. Replies, reposts and quotes are drawn with the posts instead."""
NEGATIVE: Final[dict[ActionName, float]] = {
    "not_interested": 0.020,
    "block_author": 0.003,
    "mute_author": 0.006,
    "report": 0.004,
}
"""Factor of the probability at no affinity, before 1.5 minus the post's quality."""
REPORTED_SPAM: Final = 0.1
ATTENTION: Final = 0.3  # position bias: a position is examined with probability (1 + position)^-ATTENTION
DWELL_MS: Final = 8_000  # shortest dwell time with the action `dwell`
NOTED_DWELL_MS: Final = 3_000  # shortest dwell time with the action `dwell_time`
VIDEO_MS: Final = 10_000  # videos up to this length have no quality view
FAVORITES_UNDONE: Final = 0.04
FOLLOWS_UNDONE: Final = 0.05
EVENTS_PER_IMPRESSION: Final = 1.9  # approximate mean
ANSWER_ACTIONS: Final = np.array([-1, ACTION_INDEX["reply"], ACTION_INDEX["repost"], ACTION_INDEX["quote"]])
"""The action on the parent, by the kind of the post."""

_EDGE_OF: Final[dict[ActionName, int]] = {"follow_author": FOLLOW, "block_author": BLOCK, "mute_author": MUTE}


@dataclass(frozen=True, slots=True)
class Acts:
    """Columns over acts."""

    impression: Ints  # [a] row of Impressions
    action: Ints  # [a] index of ACTIONS
    at: Ints  # [a] ms
    undone: Ints  # [a] time of the undo, or NEVER

    def take(self, chosen: Bools | Ints) -> Self:
        """Select acts by a mask or by indices."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))

    def __add__(self, other: "Acts") -> "Acts":
        return Acts(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


def draw_activity(
    rng: np.random.Generator, config: WorldConfig, accounts: Accounts, posts: Posts, edges: Edges, exposure: Exposure
) -> tuple[Impressions, Acts, Edges]:
    """Draw impressions, the acts on them, and the edges from these acts."""
    answers = np.flatnonzero(posts.parent >= 0)
    budget = max(0, config.engagements - 2 * len(answers))
    shown = exposure.draw(rng, int(1.5 * budget / EVENTS_PER_IMPRESSION))
    done = _draw_done(rng, posts, shown)
    affordable = (1 + done.sum(axis=1)).cumsum() <= budget
    shown, done = shown.take(affordable), done[affordable]
    acts = _first_of_pairs(_timed(rng, config, shown, done), shown, posts, edges, len(accounts))
    shown, acts = _until_hidden(shown, acts, posts, edges, len(accounts))
    new = _edges_of(acts, shown, posts)
    seen, answered = _answers(rng, posts, answers, len(shown))
    return shown + seen, acts + answered, new


def _draw_done(rng: np.random.Generator, posts: Posts, shown: Impressions) -> Bools:
    """Draw the actions [s, 19] of each impression; `dwell` and `dwell_time` follow from its dwell time."""
    done: Bools = rng.random((len(shown), len(ACTIONS))) < _probabilities(posts, shown)
    done[:, ACTION_INDEX["dwell"]] = shown.dwell_ms >= DWELL_MS
    done[:, ACTION_INDEX["dwell_time"]] = shown.dwell_ms >= NOTED_DWELL_MS
    return done


def _probabilities(posts: Posts, shown: Impressions) -> Floats:
    """Return action probabilities [s, 19] from affinity, position and content."""
    opened, content = gate(shown.affinity), posts.content[shown.post]
    attention = (1.0 + shown.position) ** -ATTENTION
    dislike = (1 - opened) * (1.5 - posts.quality[shown.post])
    probabilities = np.zeros((len(shown), len(ACTIONS)), np.float32)
    for name, full in POSITIVE.items():
        probabilities[:, ACTION_INDEX[name]] = full * opened * attention
    for name, full in NEGATIVE.items():
        probabilities[:, ACTION_INDEX[name]] = full * dislike * attention
    probabilities[:, ACTION_INDEX["report"]] += REPORTED_SPAM * (posts.label[content] >= 0)
    probabilities[:, ACTION_INDEX["photo_expand"]] *= posts.photos[content] > 0
    probabilities[:, ACTION_INDEX["vqv"]] *= posts.video_ms[content] > VIDEO_MS
    probabilities[:, ACTION_INDEX["quoted_click"]] *= posts.kind[content] == QUOTE
    return probabilities


def _timed(rng: np.random.Generator, config: WorldConfig, shown: Impressions, done: Bools) -> Acts:
    """Draw times of acts during the dwell time, the dwell actions at its end, and later undos of some acts."""
    impression, action = np.nonzero(done)
    begun, dwell_ms = shown.at[impression], shown.dwell_ms[impression]
    share = np.where(action >= ACTION_INDEX["dwell_time"], 1.0, rng.random(len(action)))
    at = begun + 1 + (share * (dwell_ms - 1)).astype(np.int64)
    undoable = np.zeros(len(ACTIONS))
    undoable[[ACTION_INDEX["favorite"], ACTION_INDEX["follow_author"]]] = FAVORITES_UNDONE, FOLLOWS_UNDONE
    undone = at + 1 + rng.exponential(config.span_ms / 100, len(at)).astype(np.int64)
    happens = (rng.random(len(at)) < undoable[action]) & (undone <= config.span_ms)
    return Acts(impression, action, at, np.where(happens, undone, NEVER))


def _first_of_pairs(acts: Acts, shown: Impressions, posts: Posts, edges: Edges, accounts: int) -> Acts:
    """Keep the first follow, block and mute of each pair; drop blocks and mutes between accounts that answer."""
    viewer, author = shown.viewer[acts.impression], posts.author[shown.post[acts.impression]]
    following = Pairs.of(edges.take(edges.kind == FOLLOW), accounts).since(viewer, author) < NEVER
    answer = answering(posts, accounts).since(viewer, author) < NEVER
    pair, keep = viewer * accounts + author, np.ones(len(acts.at), np.bool_)
    for name in _EDGE_OF:
        rows = np.flatnonzero(acts.action == ACTION_INDEX[name])
        rows = rows[np.lexsort((acts.at[rows], pair[rows]))]
        keep[rows] = False
        keep[rows[np.unique(pair[rows], return_index=True)[1]]] = True
        keep[rows] &= ~(following if name == "follow_author" else answer)[rows]
    return acts.take(keep)


def _until_hidden(
    shown: Impressions, acts: Acts, posts: Posts, edges: Edges, accounts: int
) -> tuple[Impressions, Acts]:
    """Drop impressions, and their acts, of an account after a block or a mute."""
    hidden = Pairs.hidden(edges + _edges_of(acts, shown, posts), accounts)
    author, original = posts.author[shown.post], posts.author[posts.content[shown.post]]
    ends = np.minimum(hidden.since(shown.viewer, author), hidden.since(shown.viewer, original))
    visible = shown.at < ends
    acts = acts.take(visible[acts.impression])
    row = visible.cumsum() - 1
    return shown.take(visible), Acts(row[acts.impression], acts.action, acts.at, acts.undone)


def _edges_of(acts: Acts, shown: Impressions, posts: Posts) -> Edges:
    """Return the edges from follows, blocks and mutes on posts, with their undos."""
    kinds = np.full(len(ACTIONS), -1)
    for name, kind in _EDGE_OF.items():
        kinds[ACTION_INDEX[name]] = kind
    acts = acts.take(kinds[acts.action] >= 0)
    viewer, author = shown.viewer[acts.impression], posts.author[shown.post[acts.impression]]
    return Edges(kinds[acts.action], viewer, author, acts.at, acts.undone)


def _answers(rng: np.random.Generator, posts: Posts, rows: Ints, before: int) -> tuple[Impressions, Acts]:
    """Return an impression of the parent outside a feed, and the act on it, for each reply, repost and quote."""
    parent, at = posts.parent[rows], posts.created[rows]
    looked_ms = np.minimum(rng.integers(5_000, 60_000, len(rows)), at - posts.created[parent])
    outside, zeros = np.full(len(rows), -1), np.zeros(len(rows), np.float32)
    seen = Impressions(posts.author[rows], parent, at - looked_ms, outside, outside, zeros, looked_ms)
    taken_back = np.where(posts.kind[rows] == REPOST, posts.deleted[rows], NEVER)
    return seen, Acts(before + np.arange(len(rows)), ANSWER_ACTIONS[posts.kind[rows]], at, taken_back)
