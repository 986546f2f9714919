"""The hashed tokens of all posts in one array (an arena), with free lists of blocks by size (Knuth, TAOCP 1, 2.5).

A text of up to 64 tokens has a block of exactly its length, a longer one a block of 64 · 2ⁿ tokens.

glossary of shapes: `room` tokens of the arena, `rows` of the store, `n` given rows, `t` given tokens, `k` of a phrase.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt16, UInt32

from thunder_ingest.events.text import MAX_TOKENS
from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.posts.author_index import longer

_FIRST_TOKENS: Final = 4096
_EXACT: Final = MAX_TOKENS
_CLASSES: Final = _EXACT + 16


class TokenArena(NamedTuple):
    """`free` has the number of used tokens, then for each size the first free block, plus one; 0 is none.

    A free block has the next one in its first token.
    """

    tokens: UInt32[np.ndarray, " room"]
    free: Int64[np.ndarray, " classes"]


def token_arena() -> TokenArena:
    """An empty arena."""
    return TokenArena(np.zeros(_FIRST_TOKENS, np.uint32), np.zeros(_CLASSES + 1, np.int64))


def with_room(arena: TokenArena, words: Int64[np.ndarray, " n"]) -> TokenArena:
    """The arena with room for texts of these lengths, without counting free blocks."""
    short = int(words[words <= MAX_TOKENS].sum())
    needed = int(arena.free[0]) + short + 2 * int(words[words > MAX_TOKENS].sum())
    room = len(arena.tokens)
    while needed > room:
        room = room * 3 // 2
    return arena._replace(tokens=longer(arena.tokens, room))


@inlined
def _size_class(words: int) -> int:
    """The size class of a text's block: its length up to 64, then doubling; 0 for an empty text."""
    if words <= _EXACT:
        return words
    size_class = _EXACT
    while _EXACT << (size_class - _EXACT) < words:
        size_class += 1
    return size_class


@inlined
def _put_back(arena: TokenArena, at: int, words: int) -> None:
    size_class = _size_class(words)
    if size_class:
        arena.tokens[at] = arena.free[size_class]
        arena.free[size_class] = at + 1


@kernel
def put_back(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    text: Int32[np.ndarray, " rows"],
    words: UInt16[np.ndarray, " rows"],
) -> None:
    """Free the texts of rows."""
    for row in rows:
        _put_back(arena, text[row], words[row])
        words[row] = 0


@kernel
def store(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    tokens: UInt32[np.ndarray, " t"],
    lengths: Int64[np.ndarray, " n"],
    text: Int32[np.ndarray, " rows"],
    words: UInt16[np.ndarray, " rows"],
) -> None:
    """Store the texts of rows, which are concatenated in `tokens`; the arena has room."""
    begin = 0
    for i in range(len(rows)):
        row, length = rows[i], lengths[i]
        _put_back(arena, text[row], words[row])
        size_class = _size_class(length)
        at = arena.free[size_class] - 1 if size_class else 0
        if at >= 0 and size_class:
            arena.free[size_class] = arena.tokens[at]
        elif size_class:
            at = arena.free[0]
            arena.free[0] += size_class if size_class <= _EXACT else _EXACT << (size_class - _EXACT)
        text[row] = at
        words[row] = length
        for word in range(length):
            arena.tokens[at + word] = tokens[begin + word]
        begin += length


@kernel
def padded(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    text: Int32[np.ndarray, " rows"],
    words: UInt16[np.ndarray, " rows"],
    into: UInt32[np.ndarray, "n t"],
) -> None:
    """Write the first tokens of rows; `into` is zero before."""
    for i in range(len(rows)):
        at = text[rows[i]]
        for word in range(min(np.int64(words[rows[i]]), into.shape[1])):
            into[i, word] = arena.tokens[at + word]


@kernel
def contain(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    text: Int32[np.ndarray, " rows"],
    words: UInt16[np.ndarray, " rows"],
    phrase: UInt32[np.ndarray, " k"],
    found: Bool[np.ndarray, " n"],
) -> None:
    """Write True for rows with the phrase side by side in their text."""
    for i in range(len(rows)):
        at = text[rows[i]]
        for start in range(at, at + np.int64(words[rows[i]]) - len(phrase) + 1):
            same = True
            for k in range(len(phrase)):
                if arena.tokens[start + k] != phrase[k]:
                    same = False
                    break
            if same:
                found[i] = True
                break
