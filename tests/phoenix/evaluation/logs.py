"""Small random logs with propensities that models and baselines can learn."""

from typing import Any

import numpy as np

from infra.ports.clock import DAY_MS
from phoenix.data.impressions import EVENT, Log
from phoenix.data.posts import Posts, Versions
from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION

BEGIN_MS = 1_650_000_000_000
CLICK, VQV = ACTION_INDEX["click"], ACTION_INDEX["vqv"]


def log_drawn(seed: int, *, days: int = 6, viewers: int = 60, posts: int = 40, rows: int = 3_000) -> Log:
    """A log of viewers and posts with individual rates of clicks and views; impressions at random times."""
    rng = np.random.default_rng(seed)
    viewer, post = rng.integers(0, viewers, rows), rng.integers(0, posts, rows)
    at = BEGIN_MS + rng.integers(0, days * DAY_MS, rows)
    order = np.lexsort((at, viewer))
    viewer, post, at = viewer[order], post[order], at[order]
    leaning = rng.normal(0, 1.5, viewers)[viewer] + rng.normal(0, 1.5, posts)[post]
    actions = np.zeros((rows, len(ACTIONS)), bool)
    actions[:, CLICK] = rng.random(rows) < 1 / (1 + np.exp(-leaning))
    actions[:, VQV] = actions[:, CLICK] & (rng.random(rows) < 0.5)
    log = Log(
        posts=posts_drawn(rng, posts),
        viewer_id=1_000 + viewer,
        post=post,
        at=at,
        complete_at=at + rng.integers(0, 60_000, rows),
        surface=rng.integers(0, 3, rows).astype(np.int32),
        actions=actions,
        dwell_ms=rng.exponential(5_000, rows).astype(np.float32),
        surfaces=("", "home", "search"),
    )
    return with_actions(log, actions)


def posts_drawn(rng: np.random.Generator, posts: int) -> Posts:
    """Posts by a few authors, of two words, created before the log begins."""
    tokens = np.zeros((posts, 64), np.uint32)
    tokens[:, 0], tokens[:, 1] = rng.integers(1, 6, posts), rng.integers(6, 30, posts)
    none = np.zeros(0, np.int64)
    return Posts(
        post_id=np.arange(1, posts + 1),
        author_id=rng.integers(1, 10, posts),
        tokens=tokens,
        created_at=BEGIN_MS - rng.integers(1, DAY_MS, posts),
        video_ms=rng.integers(0, 60_000, posts).astype(np.int32),
        photos=np.zeros(posts, np.int32),
        source_id=np.zeros(posts, np.int64),
        source_author_id=np.zeros(posts, np.int64),
        source=np.arange(posts),
        versions=Versions(none, none, none == 1, np.zeros((0, 64), np.uint32), none.astype("i4"), none.astype("i4")),
    )


def with_actions(log: Log, actions: Any) -> Log:
    """The same log with other actions, and their events: impressions, and engagements when their rows are complete."""
    row, action = np.nonzero(actions)
    events = np.zeros(len(log.at) + len(row), EVENT)
    row, events["action"] = np.append(np.arange(len(log.at)), row), np.append(np.full(len(log.at), IMPRESSION), action)
    events["viewer_id"], events["surface"] = log.viewer_id[row], log.surface[row]
    events["post_id"], events["author_id"] = log.posts.post_id[log.post[row]], log.posts.author_id[log.post[row]]
    events["at"] = np.where(events["action"] == IMPRESSION, log.at[row], log.complete_at[row])
    return log._replace(actions=actions, events=events[np.lexsort((events["at"], events["viewer_id"]))])
