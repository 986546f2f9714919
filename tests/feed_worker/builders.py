"""Posts, viewers, requests and candidates for tests. Every field has a default; a test sets only relevant ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float32

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.hydrators.in_network import InNetworkHydrator
from feed_worker.hydrators.related_posts import RelatedPostsHydrator
from feed_worker.parameters import FORYOU, Parameters
from infra.ports.clock import MINUTE_MS
from phoenix.features.inputs import CandidateInputs, History
from phoenix.models.configs import NANO, ModelConfig
from thunder_ingest.events import (
    ACTION_INDEX,
    ACTIONS,
    IMPRESSION,
    KINDS,
    ActionName,
    FeedRequest,
    KindName,
    Post,
    PostCounts,
)
from thunder_ingest.events.text import token_hashes
from thunder_ingest.posts.store import PostStore, StoreLimits
from thunder_ingest.users.history import POSITION
from thunder_ingest.users.state import UserState

NOW_MS = 1_800_000_000_000
VIEWER = 1


def post(post_id: int, author_id: int = 50, kind: KindName = "original", **fields: Any) -> Post:
    """A post of a minute ago. `text` brings its tokens, `labels` may be names."""
    text = fields.pop("text", "")
    labels = dict.fromkeys(fields.pop("labels", ()), NOW_MS - 1)
    created_at = fields.pop("created_at", NOW_MS - MINUTE_MS)
    return Post(
        post_id=post_id,
        author_id=author_id,
        kind=KINDS.index(kind),
        created_at=created_at,
        at=created_at,
        text=text,
        tokens=token_hashes(text).astype("<u4").tobytes(),
        labels=labels,
        **fields,
    )


def store_of(*posts: Post, **limits: Any) -> PostStore:
    """A store with these posts."""
    store = PostStore(StoreLimits(**limits))
    store.apply(posts)
    return store


def ids(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Sorted unique ids."""
    return np.unique(np.array(values, np.int64))


def viewer(**state: Any) -> UserState:
    """A viewer's state; edges are iterables of ids, positions a list of ids of liked posts."""
    user = UserState.empty()
    for name, value in state.items():
        if name == "liked":
            user.positions = positions_of(value)
        elif name in ("following", "blocks", "blocked_by", "mutes", "subscriptions", "seen"):
            setattr(user, name, ids(*value))
        elif name == "served":
            user.served_ids = np.array([post_id for post_id, _ in value], np.int64)
            user.served_at = np.array([at for _, at in value], np.int64)
        else:
            setattr(user, name, value)
    return user


def positions_of(post_ids: Sequence[int]) -> Any:
    """History positions, oldest first: these posts were liked, the last one a minute ago, each by author 50."""
    positions = np.zeros(len(post_ids), POSITION)
    positions["post_id"] = post_ids
    positions["author_id"] = 50
    positions["at"] = NOW_MS - MINUTE_MS * np.arange(len(post_ids), 0, -1)
    positions["actions"] = 1 << ACTION_INDEX["favorite"]
    return positions


def query(
    user: UserState | None = None, *, user_id: int = VIEWER, parameters: Parameters = FORYOU, **request: Any
) -> Query:
    """A query of the viewer with hydrated state."""
    size = request.pop("size", None)
    experiments = request.pop("experiments", {})
    now_ms, model_version = request.pop("now_ms", NOW_MS), request.pop("model_version", "fixed-1")
    request = {"request_id": "r", "user_id": user_id, "at": NOW_MS, "size": size} | request
    made = Query(
        request=FeedRequest(**request),
        user_id=user_id,
        user_form=str(user_id),
        now_ms=now_ms,
        deadline_at=NOW_MS + MINUTE_MS,
        size=size or 35,
        parameters=parameters,
        experiments=experiments,
        model_version=model_version,
    )
    made.user = user if user is not None else viewer()
    made.seen = np.union1d(made.user.seen, made.requested_seen_ids())
    return made


def candidates_in(store: PostStore, *post_ids: int, source: str = "popular") -> Candidates:
    """These posts of a store as candidates, in this order."""
    return Candidates.of_rows(store, store.rows_of(np.array(post_ids, np.int64)), source)


def hydrated(store: PostStore, asked: Query, *post_ids: int) -> Candidates:
    """These posts as candidates, hydrated for a query."""
    found = candidates_in(store, *post_ids)
    return RelatedPostsHydrator(store).hydrate(asked, InNetworkHydrator().hydrate(asked, found))


def predicted(candidates: Candidates, *rows: dict[str, float] | None) -> Candidates:
    """Candidates with predictions, one dictionary a row; a missing action is 0, a row of None is not scored."""
    predictions = np.full((len(candidates), len(ACTIONS)), np.nan, np.float32)
    for row, named in enumerate(rows):
        if named is not None:
            predictions[row] = [named.get(action, 0.0) for action in ACTIONS]
    return candidates.with_columns(predictions=predictions)


def seen_counts(views: Mapping[int, int]) -> list[PostCounts]:
    """Counts of views, with all other counts 0."""
    return [PostCounts(post_id=i, at=NOW_MS, totals=[0] * IMPRESSION + [times]) for i, times in views.items()]


def weighing(**weights: float) -> Parameters:
    """Parameters with weights for these actions only."""
    return replace(FORYOU, name="test", weights=cast(Mapping[ActionName, float], weights), unpredicted_weights=())


class FixedModel:
    """A model engine whose predictions depend on the post id alone, with one vector for all users."""

    version = "fixed-1"
    config: ModelConfig = NANO

    def __init__(
        self,
        predict: Callable[[int], Sequence[float]] | None = None,
        dim: int = NANO.embed_dim,
        version: str = version,
    ) -> None:
        self.version = version
        self._predict = predict or fixed_predictions
        self._dim = dim
        self.scored: list[CandidateInputs] = []

    def embed_users(self, history: History, /) -> Float32[np.ndarray, "B d"]:
        """The first unit vector."""
        vectors = np.zeros((len(history.user_id), self._dim), np.float32)
        vectors[:, 0] = 1.0
        return vectors

    def score(self, history: History, candidates: CandidateInputs, /) -> Float32[np.ndarray, "B C 19"]:
        """The results of `predict` for each post id."""
        assert len(history.user_id) == len(candidates.post_id)
        self.scored.append(candidates)
        rows = [[self._predict(post_id) for post_id in row] for row in candidates.post_id.tolist()]
        return np.array(rows, np.float32).reshape(*candidates.post_id.shape, len(ACTIONS))


def fixed_predictions(post_id: int) -> list[float]:
    """Pseudo-random values below 1 by action and post id, and a dwell of up to 30 s; in few bits, for exact sums."""
    scattered = [(post_id * 2_654_435_761 + 40_503 * action) % 1_009 / 1_024 for action in range(len(ACTIONS))]
    return [*(p * p for p in scattered[:-1]), 30_000 * scattered[-1]]


class KnownUsers:
    """The users' state in a dictionary."""

    def __init__(self, states: dict[str, UserState] | None = None) -> None:
        self._states = states or {}
        self.served: list[tuple[str, list[int], int, str]] = []

    def read(self, users: Sequence[str], /) -> list[UserState]:
        """The state of each user."""
        return [self._states.get(user, UserState.empty()) for user in users]

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, suffix: str, /) -> None:
        """Append to `served`."""
        self.served.append((user, list(post_ids), at_ms, suffix))
