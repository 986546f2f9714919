"""What a query may find: traits that posts have, and masks over them that are applied inside the scan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int64, UInt64


class Traits(NamedTuple):
    """What masks look at, a row a post. The codes and the bits are the caller's; zeros say that nothing is known."""

    author: Int64[np.ndarray, " n"]
    language: Int64[np.ndarray, " n"]
    labels: UInt64[np.ndarray, " n"]  # a bit for each label
    video: Bool[np.ndarray, " n"]

    @classmethod
    def unknown(cls, n: int) -> Self:
        """The traits of n posts of which nothing is known."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint64), np.zeros(n, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """What one query may find; the empty mask lets everything through.

    Attributes:
        languages: only posts in one of these; None: in any.
        authors: only posts of these; None: of any.
        without_authors: no posts of these.
        without_posts: none of these.
        without_labels: no post with one of these bits.
        video: whether posts with a video may be found.

    """

    languages: Int64[np.ndarray, " l"] | None = None
    authors: Int64[np.ndarray, " a"] | None = None
    without_authors: Int64[np.ndarray, " a"] | None = None
    without_posts: Int64[np.ndarray, " p"] | None = None
    without_labels: int = 0
    video: bool = True


class IdSets(NamedTuple):
    """A set of ids for each query, one behind the other: that of query b is `ids[bounds[b]:bounds[b + 1]]`, sorted."""

    ids: Int64[np.ndarray, " n"]
    bounds: Int64[np.ndarray, " B+1"]

    @classmethod
    def of(cls, sets: Sequence[Int64[np.ndarray, " _"] | None]) -> Self:
        """Sets in no order, with repetitions; None is the empty one."""
        unique = [np.unique(np.asarray(ids if ids is not None else (), np.int64)) for ids in sets]
        bounds = np.cumsum([0, *map(len, unique)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int64), *unique]), bounds)


class Masks(NamedTuple):
    """The masks of a batch of queries as arrays."""

    any_language: Bool[np.ndarray, " B"]
    languages: IdSets
    any_author: Bool[np.ndarray, " B"]
    authors: IdSets
    without_authors: IdSets
    without_posts: IdSets
    without_labels: UInt64[np.ndarray, " B"]
    video: Bool[np.ndarray, " B"]

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Self:
        """One for each query."""
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
