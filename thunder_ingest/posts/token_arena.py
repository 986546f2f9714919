"""The hashed tokens of all posts in one array: a text takes as much room as it has words."""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt16, UInt32

from thunder_ingest.events.text import MAX_TOKENS
from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.posts.author_index import longer

_FIRST_STEPS: Final = 4096
_STEP: Final = 1
_EXACT: Final = MAX_TOKENS // _STEP
_CLASSES: Final = _EXACT + 16


class TokenArena(NamedTuple):
    """`free` holds how many steps have ever been used, then the first free piece of each size, plus one; 0 is none.

    A free piece names the next one in its first token.
    """

    tokens: UInt32[np.ndarray, " room"]
    free: Int64[np.ndarray, " classes"]


def token_arena() -> TokenArena:
    """An empty arena."""
    return TokenArena(np.zeros(_FIRST_STEPS * _STEP, np.uint32), np.zeros(_CLASSES + 1, np.int64))


def with_room(arena: TokenArena, words: Int64[np.ndarray, " n"]) -> TokenArena:
    """The arena with room for texts of so many tokens, whatever pieces are free."""
    short = int(((words + _STEP - 1) // _STEP * _STEP)[words <= MAX_TOKENS].sum())
    needed = int(arena.free[0]) * _STEP + short + 2 * int(words[words > MAX_TOKENS].sum())
    room = len(arena.tokens)
    while needed > room:
        room = room * 3 // 2 // _STEP * _STEP
    return arena._replace(tokens=longer(arena.tokens, room))


@inlined
def _size_class(words: int) -> int:
    """The class of a text's piece, 0 where it needs none: so many steps, from the 17th on doubling."""
    steps = (words + _STEP - 1) // _STEP
    if steps <= _EXACT:
        return steps
    size_class = _EXACT
    while _EXACT << (size_class - _EXACT) < steps:
        size_class += 1
    return size_class


@inlined
def _put_back(arena: TokenArena, at: int, words: int) -> None:
    size_class = _size_class(words)
    if size_class:
        arena.tokens[at * _STEP] = arena.free[size_class]
        arena.free[size_class] = at + 1


@kernel
def put_back(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    text: Int32[np.ndarray, " rows"],
    words: UInt16[np.ndarray, " rows"],
) -> None:
    """Forget the texts of rows."""
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
    """Keep the texts of rows, which stand in `tokens` one after another; there is room."""
    begin = 0
    for i in range(len(rows)):
        row, length = rows[i], lengths[i]
        _put_back(arena, text[row], words[row])
        size_class = _size_class(length)
        at = arena.free[size_class] - 1 if size_class else 0
        if at >= 0 and size_class:
            arena.free[size_class] = arena.tokens[at * _STEP]
        elif size_class:
            at = arena.free[0]
            arena.free[0] += size_class if size_class <= _EXACT else _EXACT << (size_class - _EXACT)
        text[row] = at
        words[row] = length
        for word in range(length):
            arena.tokens[at * _STEP + word] = tokens[begin + word]
        begin += length


@kernel
def padded(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    text: Int32[np.ndarray, " rows"],
    words: UInt16[np.ndarray, " rows"],
    into: UInt32[np.ndarray, "n t"],
) -> None:
    """The first tokens of rows into zeros."""
    for i in range(len(rows)):
        at = text[rows[i]] * _STEP
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
    """Which rows have the phrase in their text, uninterrupted."""
    for i in range(len(rows)):
        at = text[rows[i]] * _STEP
        for start in range(at, at + np.int64(words[rows[i]]) - len(phrase) + 1):
            same = True
            for k in range(len(phrase)):
                if arena.tokens[start + k] != phrase[k]:
                    same = False
                    break
            if same:
                found[i] = True
                break
