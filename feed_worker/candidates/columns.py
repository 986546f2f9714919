"""The candidates of one request: a structure of arrays, one row a candidate.

n: candidates
a: actions, 19 (`thunder_ingest.events.ACTIONS`)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thunder_ingest.events import ACTIONS, REPOST, RepeatName
from thunder_ingest.posts.columns import PostColumns, Referred, none_referred
from thunder_ingest.posts.store import PostStore

SOURCES: Final = ("thunder", "phoenix_retrieval", "popular", "repeat", "check")
"""The names that `Candidates.source` indexes, in the order of the sources in the pipeline."""

REPEATS: Final[tuple[RepeatName | None, ...]] = (None, "served", "seen")
"""The names that `Candidates.repeat` indexes, in the order in which such posts are ranked."""

NEW, SERVED, SEEN = range(len(REPEATS))

Index: TypeAlias = NDArray[np.bool_] | NDArray[np.intp]


class ColumnError(TypeError):
    """A column has the wrong length, shape or type."""


class Related(NamedTuple):
    """The stored facts of the posts that candidates refer to.

    `source` is the reposted or quoted post, of a repost of a repost the original. Safety rules use `referred`.
    """

    source_author_id: NDArray[np.int64]  # [n] of the stored source, else from the candidate, else 0
    referred: Referred  # all posts that the candidates refer to, at any distance

    def take(self, index: Index) -> "Related":
        """The candidates under a mask or at distinct positions."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return Related(self.source_author_id[at], self.referred.take(at, len(self.source_author_id)))


_COLUMNS: Final[dict[str, tuple[type[np.generic], tuple[int, ...]]]] = {
    "source": (np.uint8, ()),
    "retrieval_score": (np.float32, ()),
    "in_network": (np.bool_, ()),
    "repeat": (np.uint8, ()),
    "repeat_at": (np.int64, ()),
    "predictions": (np.float32, (len(ACTIONS),)),
    "weighted": (np.float64, ()),
    "boost": (np.float64, ()),
    "diversity": (np.float64, ()),
    "oon": (np.float64, ()),
    "dpp": (np.float64, ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Candidates as columns, copy-on-write: never changed in place.

    The columns hold copies and ids, no row numbers of the post store: rows move while posts come and go.
    """

    posts: PostColumns  # copies of the store's columns
    source: NDArray[np.uint8]  # [n] index of SOURCES
    retrieval_score: NDArray[np.float32]  # [n] similarity of viewer and post, NaN from other sources
    in_network: NDArray[np.bool_]  # [n] True if the viewer follows the posting account
    repeat: NDArray[np.uint8]  # [n] index of REPEATS
    repeat_at: NDArray[np.int64]  # [n] epoch ms, when the viewer last was served or saw a repeat; 0 if unknown
    related: Related  # [n]
    predictions: NDArray[np.float32]  # [n, a] probabilities, then dwell in ms; NaN if not scored
    weighted: NDArray[np.float64]  # [n]
    boost: NDArray[np.float64]  # [n] added before the multipliers
    diversity: NDArray[np.float64]  # [n] multiplier
    oon: NDArray[np.float64]  # [n] multiplier
    dpp: NDArray[np.float64]  # [n] multiplier, 0 for posts that re-ranking did not select

    @classmethod
    def of(cls, posts: PostColumns, source: str, retrieval_score: NDArray[np.float32] | None = None) -> "Candidates":
        """New candidates from one source; `retrieval_score` is [n]."""
        n = len(posts.post_id)
        return cls(
            posts=posts,
            source=np.full(n, SOURCES.index(source), np.uint8),
            retrieval_score=np.full(n, np.nan, np.float32) if retrieval_score is None else retrieval_score,
            in_network=np.zeros(n, np.bool_),
            repeat=np.zeros(n, np.uint8),
            repeat_at=np.zeros(n, np.int64),
            related=_unrelated(posts),
            predictions=np.full((n, len(ACTIONS)), np.nan, np.float32),
            weighted=np.zeros(n),
            boost=np.zeros(n),
            diversity=np.ones(n),
            oon=np.ones(n),
            dpp=np.ones(n),
        )

    @classmethod
    def of_rows(cls, store: PostStore, rows: NDArray[np.int64], source: str) -> "Candidates":
        """Candidates from rows of the store; the caller holds `store.lock` since it got the rows."""
        return cls.of(store.columns(rows), source)

    def __len__(self) -> int:
        return len(self.posts.post_id)

    @property
    def score(self) -> NDArray[np.float64]:
        """[n] (weighted + boost) times all multipliers; columns that are not computed yet are neutral."""
        return (self.weighted + self.boost) * self.diversity * self.oon * self.dpp

    @property
    def scored(self) -> NDArray[np.bool_]:
        """[n] True if the ranker made a prediction."""
        return np.asarray(np.isfinite(self.predictions).any(axis=1))

    @property
    def original_id(self) -> NDArray[np.int64]:
        """[n] the id of the post that the viewer reads: the source of a repost, else the post itself."""
        return np.where(self._is_repost, self.posts.source_post_id, self.posts.post_id)

    @property
    def original_author_id(self) -> NDArray[np.int64]:
        """[n] the author of the post that the viewer reads: that of a repost's source, else the post's own."""
        source_author = self.related.source_author_id
        return np.where(self._is_repost & (source_author != 0), source_author, self.posts.author_id)

    @property
    def _is_repost(self) -> NDArray[np.bool_]:
        return np.asarray((self.posts.kind == REPOST) & (self.posts.source_post_id != 0))

    def ranking(self) -> NDArray[np.intp]:
        """[n] positions, best first: scored before unscored, then by score, time and id, all descending.

        Repeats come last: served ones, then seen ones, oldest first. The order of rows never decides, so the same state
        gives the same feed.
        """
        posts = self.posts
        by_score = (-posts.post_id, -posts.created_at, -self.score, ~self.scored)
        return np.lexsort((*by_score, self.repeat_at, self.repeat) if self.repeat.any() else by_score)

    def take(self, index: Index) -> "Candidates":
        """The rows under a mask, or at positions in their order."""
        if index.dtype == np.bool_ and index.all():
            return self
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in _COLUMNS}
        posts = PostColumns(*(column[index] for column in self.posts))
        return replace(self, posts=posts, related=self.related.take(index), **columns)

    def with_columns(self, **columns: Any) -> "Candidates":
        """The same candidates with other values in some columns.

        Raises:
            ColumnError: a column does not fit the candidates.

        """
        for name, column in columns.items():
            dtype, tail = _COLUMNS[name]
            expected = (len(self), *tail)
            if column.dtype != dtype or column.shape != expected:
                raise ColumnError(
                    f"{name} is {column.dtype}{list(column.shape)}, not {np.dtype(dtype)}{list(expected)}"
                )
        return replace(self, **columns)

    def with_related(self, related: Related) -> "Candidates":
        """The same candidates with facts of the posts that they refer to; raises `ColumnError`."""
        if related.source_author_id.shape != (len(self),):
            raise ColumnError(f"related columns of {len(related.source_author_id)} rows, not {len(self)}")
        return replace(self, related=related)


def _unrelated(posts: PostColumns) -> Related:
    return Related(posts.source_author_id, none_referred())


def concat(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of several sources, in order; at least one part."""
    filled = [part for part in parts if len(part)] or [parts[0]]
    if len(filled) == 1:
        return filled[0]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in filled])
        for name in (field.name for field in fields(Candidates))
        if name in _COLUMNS
    }
    posts = PostColumns(*map(np.concatenate, zip(*(part.posts for part in filled), strict=True)))
    begins = np.cumsum([0, *map(len, filled)])
    referred = [
        part.related.referred._replace(of=part.related.referred.of + begin)
        for part, begin in zip(filled, begins, strict=False)
    ]
    related = Related(
        np.concatenate([part.related.source_author_id for part in filled]),
        Referred(*map(np.concatenate, zip(*referred, strict=True))),
    )
    return Candidates(posts=posts, related=related, **joined)
