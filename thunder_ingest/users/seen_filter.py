"""Posts seen so long ago that their ids are no longer kept: Bloom filters, a generation after the other.

Posts are added oldest first; a full generation is followed by an empty one, and of more than some the oldest is
forgotten. So memory is bounded however long a user lives, no post of the generations that are kept is ever missed, and
a post that was never seen is taken for seen with a probability of at most `error`, over all generations together.
Adding a post again changes nothing, unless the generation that holds it is the next to go: a replayed log forgets
nothing. A post is remembered at least as long as one generation of others takes to follow it.

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
    """How many posts are remembered, and how well: 12.5 bits a post at the defaults, 51 kB when all are full."""

    posts: int = 8_192
    """Of a generation."""
    generations: int = 4
    error: float = 0.01
    """The probability that a post never seen is taken for seen."""

    def empty(self) -> "_Generation":
        """A new generation: of so many bits, and so many of a post, as are best for the error."""
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
    """An immutable set of posts that knows too many rather than too few."""

    def __init__(self, generations: tuple[_Generation, ...] = ()) -> None:
        self._generations = generations  # oldest first

    def __len__(self) -> int:
        """How many posts were added and are not yet forgotten."""
        return sum(generation.posts for generation in self._generations)

    def holds(self, post_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of some posts were added, or pass for them; 0, which is no id, never is."""
        found = np.zeros(len(post_ids), bool)
        if self._generations:
            asked = np.flatnonzero(post_ids)
            found[asked] = np.any([each.holds(post_ids[asked]) for each in self._generations], axis=0)
        return found

    def with_posts(self, post_ids: Int64[np.ndarray, " n"], size: FilterSize) -> "SeenFilter":
        """These posts as well, oldest first."""
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
        """Which posts are held by a generation that is not the next to go."""
        next_to_go = max(0, len(self._generations) - size.generations + 1)
        return SeenFilter(self._generations[next_to_go:]).holds(post_ids)

    def to_bytes(self) -> bytes:
        """The generations, oldest first: head and bits of each."""
        return b"".join(
            _HEAD.pack(each.probes, each.posts, len(each.bits)) + each.bits.tobytes() for each in self._generations
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """The filter whose bytes these are; raises ValueError where they are cut off."""
        generations, offset = list[_Generation](), 0
        while offset < len(body):
            start = offset + _HEAD.size
            if start > len(body):
                raise ValueError("broken: a filter is cut off")
            probes, posts, size = _HEAD.unpack_from(body, offset)
            offset = start + size
            if offset > len(body):
                raise ValueError("broken: a filter is cut off")
            generations.append(_Generation(probes, posts, np.frombuffer(body, np.uint8, size, start)))
        return cls(tuple(generations))


def _distinct(post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Each once, in the order of the first."""
    return post_ids[np.sort(np.unique(post_ids, return_index=True)[1])]
