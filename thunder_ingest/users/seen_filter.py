"""A Bloom filter (Bloom, 1970) of posts seen long ago, in generations.

Posts are added oldest first. A full generation is followed by an empty one, and the oldest generation is dropped when
there are too many. So memory is bounded. A kept post is always found. A post that was never seen is found with a
probability of at most `error`, over all generations together. A post that is added again changes nothing, unless its
generation is the next to be dropped: a replayed log loses nothing. A post is kept at least until a whole generation of
other posts follows it. The probes of a post come from one 64-bit hash (Kirsch and Mitzenmacher, 2006).

glossary of shapes: n posts, k probes of a post.
"""

import struct
from dataclasses import dataclass
from math import ceil, log
from typing import Final, Self

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from numpy.typing import NDArray

from thunder_ingest.kernels.hashing import splitmix64

_HEAD: Final = struct.Struct("<BII")  # probes, posts, bytes


@dataclass(frozen=True, slots=True)
class FilterSize:
    """Capacity and error of a filter: 12.5 bits per post at the defaults, 51 kB with all generations full."""

    posts: int = 8_192
    """Capacity of a generation."""
    generations: int = 4
    error: float = 0.01
    """Probability of a false positive, over all generations."""

    def empty(self) -> "_Generation":
        """A new generation, with the optimal numbers of bits and probes for the error."""
        bits_per_post = -log(self.error / self.generations) / log(2) ** 2
        bits = np.zeros(ceil(self.posts * bits_per_post / 8), np.uint8)
        return _Generation(round(bits_per_post * log(2)), 0, bits)


@dataclass(slots=True, eq=False)
class _Generation:
    probes: int
    posts: int
    bits: NDArray[np.uint8]

    def holds(self, post_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        place = self._places(post_ids)
        return np.asarray(((self.bits[place >> 3] >> (place & 7).astype(np.uint8)) & 1).all(axis=1))

    def with_posts(self, post_ids: Int64[np.ndarray, " n"]) -> "_Generation":
        place, bits = self._places(post_ids).ravel(), self.bits.copy()
        np.bitwise_or.at(bits, place >> 3, np.uint8(1) << (place & 7).astype(np.uint8))
        return _Generation(self.probes, self.posts + len(post_ids), bits)

    def _places(self, post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n k"]:
        mixed: UInt64[np.ndarray, " n"] = splitmix64(post_ids.astype(np.uint64))
        first, step = mixed >> np.uint64(32), (mixed & np.uint64(0xFFFFFFFF)) | np.uint64(1)
        places = first[:, None] + np.arange(self.probes, dtype=np.uint64) * step[:, None]
        return np.asarray(places % np.uint64(len(self.bits) * 8), np.int64)


class SeenFilter:
    """An immutable approximate set of posts: false positives, no false negatives."""

    def __init__(self, generations: tuple[_Generation, ...] = ()) -> None:
        self._generations = generations  # oldest first

    def __len__(self) -> int:
        """The number of added posts in the kept generations."""
        return sum(generation.posts for generation in self._generations)

    def holds(self, post_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for added posts and for false positives; False for id 0."""
        found = np.zeros(len(post_ids), bool)
        if self._generations:
            asked = np.flatnonzero(post_ids)
            found[asked] = np.any([each.holds(post_ids[asked]) for each in self._generations], axis=0)
        return found

    def with_posts(self, post_ids: Int64[np.ndarray, " n"], size: FilterSize) -> "SeenFilter":
        """The filter with more posts, which are given oldest first."""
        generations, left = list(self._generations), _distinct(post_ids)
        left = left[~self._outlives(left, size)]
        while len(left):
            if not generations or generations[-1].posts >= size.posts:
                generations.append(size.empty())
            room = size.posts - generations[-1].posts
            generations[-1] = generations[-1].with_posts(left[:room])
            left = left[room:]
        return SeenFilter(tuple(generations[-size.generations :]))

    def _outlives(self, post_ids: Int64[np.ndarray, " n"], size: FilterSize) -> Bool[np.ndarray, " n"]:
        """True for posts in a generation that is not the next to be dropped."""
        first_safe = max(0, len(self._generations) - size.generations + 1)
        return SeenFilter(self._generations[first_safe:]).holds(post_ids)

    def to_bytes(self) -> bytes:
        """Header and bits of each generation, oldest first."""
        return b"".join(
            _HEAD.pack(each.probes, each.posts, len(each.bits)) + each.bits.tobytes() for each in self._generations
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """The filter from the bytes of `to_bytes`; raises ValueError for truncated bytes."""
        generations, offset = list[_Generation](), 0
        while offset < len(body):
            start = offset + _HEAD.size
            if start > len(body):
                raise ValueError("broken: a filter is truncated")
            probes, posts, size = _HEAD.unpack_from(body, offset)
            offset = start + size
            if offset > len(body):
                raise ValueError("broken: a filter is truncated")
            generations.append(_Generation(probes, posts, np.frombuffer(body, np.uint8, size, start)))
        return cls(tuple(generations))


def _distinct(post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """The distinct posts, in order of their first occurrence."""
    return post_ids[np.sort(np.unique(post_ids, return_index=True)[1])]
