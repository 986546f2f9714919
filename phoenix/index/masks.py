"""Pre-filtering: traits of posts, and masks over traits that a search applies inside its scan.

glossary of shapes: `n` posts or ids, `queries` of a batch, `l` languages, `a` authors, `p` posts of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int64, UInt64


class Traits(NamedTuple):
    """The filterable properties of posts, a row a post. Codes and bits are the caller's; zero means unknown."""

    author: Int64[np.ndarray, " n"]
    language: Int64[np.ndarray, " n"]
    labels: UInt64[np.ndarray, " n"]  # a bit for each label
    video: Bool[np.ndarray, " n"]

    @classmethod
    def unknown(cls, n: int) -> Self:
        """The traits of n posts with unknown properties."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint64), np.zeros(n, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """The filter of one query; the empty mask allows all posts.

    Attributes:
        languages: only posts in one of these; None: all.
        authors: only posts by these; None: all.
        without_authors: no posts by these.
        without_posts: none of these posts.
        without_labels: no posts with one of these bits.
        video: False to exclude posts with a video.

    """

    languages: Int64[np.ndarray, " l"] | None = None
    authors: Int64[np.ndarray, " a"] | None = None
    without_authors: Int64[np.ndarray, " a"] | None = None
    without_posts: Int64[np.ndarray, " p"] | None = None
    without_labels: int = 0
    video: bool = True


class IdSets(NamedTuple):
    """Sorted sets of ids, concatenated: the set of query q is `ids[bounds[q]:bounds[q + 1]]`."""

    ids: Int64[np.ndarray, " n"]
    bounds: Int64[np.ndarray, " queries+1"]

    @classmethod
    def of(cls, sets: Sequence[Int64[np.ndarray, " _"] | None]) -> Self:
        """The sets of unsorted ids with repetitions; None is the empty set."""
        unique = [np.unique(np.asarray(ids if ids is not None else (), np.int64)) for ids in sets]
        bounds = np.cumsum([0, *map(len, unique)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int64), *unique]), bounds)


class Masks(NamedTuple):
    """The masks of a batch of queries as arrays."""

    any_language: Bool[np.ndarray, " queries"]
    languages: IdSets
    any_author: Bool[np.ndarray, " queries"]
    authors: IdSets
    without_authors: IdSets
    without_posts: IdSets
    without_labels: UInt64[np.ndarray, " queries"]
    video: Bool[np.ndarray, " queries"]

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Self:
        """The arrays of a mask per query."""
        return cls(
            np.array([mask.languages is None for mask in masks], np.bool_),
            IdSets.of([mask.languages for mask in masks]),
            np.array([mask.authors is None for mask in masks], np.bool_),
            IdSets.of([mask.authors for mask in masks]),
            IdSets.of([mask.without_authors for mask in masks]),
            IdSets.of([mask.without_posts for mask in masks]),
            np.array([mask.without_labels for mask in masks], np.uint64),
            np.array([mask.video for mask in masks], np.bool_),
        )
