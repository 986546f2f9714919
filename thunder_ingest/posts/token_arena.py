"""The hashed tokens of all posts in one array (an arena), with free lists of blocks by size (Knuth, TAOCP 1, 2.5).

A post has a block with the models' tokens, then the stream for muted keywords (`events.muting`) if it differs. A block
of up to 64 tokens has exactly its length, a longer one 64 · 2ⁿ tokens.

glossary of shapes: `room` tokens of the arena, `rows` of the store, `n` given rows, `t` given tokens, `u` of streams,
`p` phrases, `k` keywords.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt16, UInt32

from thunder_ingest.events.muting import Phrases
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


class Texts(NamedTuple):
    """The block of each row: its place, the number of the models' tokens, and the length of the stream behind them."""

    text: Int32[np.ndarray, " rows"]
    words: UInt16[np.ndarray, " rows"]
    stream: Int32[np.ndarray, " rows"]


def with_room(arena: TokenArena, words: Int64[np.ndarray, " n"]) -> TokenArena:
    """The arena with room for blocks of these lengths, without counting free blocks."""
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
def put_back(arena: TokenArena, rows: Int64[np.ndarray, " n"], texts: Texts) -> None:
    """Free the blocks of rows."""
    for row in rows:
        _put_back(arena, texts.text[row], np.int64(texts.words[row]) + texts.stream[row])
        texts.words[row] = texts.stream[row] = 0


@kernel
def store(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    tokens: UInt32[np.ndarray, " t"],
    words: Int64[np.ndarray, " n"],
    streams: UInt32[np.ndarray, " u"],
    lengths: Int64[np.ndarray, " n"],
    texts: Texts,
) -> None:
    """Store the tokens and streams of rows, each given one after another; the arena has room."""
    token = behind = 0
    for i in range(len(rows)):
        row, length = rows[i], words[i] + lengths[i]
        _put_back(arena, texts.text[row], np.int64(texts.words[row]) + texts.stream[row])
        size_class = _size_class(length)
        at = arena.free[size_class] - 1 if size_class else 0
        if at >= 0 and size_class:
            arena.free[size_class] = arena.tokens[at]
        elif size_class:
            at = arena.free[0]
            arena.free[0] += size_class if size_class <= _EXACT else _EXACT << (size_class - _EXACT)
        texts.text[row], texts.words[row], texts.stream[row] = at, words[i], lengths[i]
        for word in range(words[i]):
            arena.tokens[at + word] = tokens[token + word]
        at += words[i]
        for word in range(lengths[i]):
            arena.tokens[at + word] = streams[behind + word]
        token += words[i]
        behind += lengths[i]


@kernel
def padded(arena: TokenArena, rows: Int64[np.ndarray, " n"], texts: Texts, into: UInt32[np.ndarray, "n t"]) -> None:
    """Write the first of the models' tokens of rows; `into` is zero before."""
    for i in range(len(rows)):
        at = texts.text[rows[i]]
        for word in range(min(np.int64(texts.words[rows[i]]), into.shape[1])):
            into[i, word] = arena.tokens[at + word]


@kernel
def contain_any(
    arena: TokenArena,
    rows: Int64[np.ndarray, " n"],
    texts: Texts,
    phrases: Phrases,
    most: int,
    found: Bool[np.ndarray, " n"],
) -> int:
    """Write for each row whether its text contains a keyword, until `most` tokens are read; returns the rows done.

    A keyword is in a text that contains all its phrases, each side by side.
    """
    last = np.full(len(phrases.first), -1, np.int64)  # the row that was the last to contain the phrase
    counted, left = np.full(len(phrases.needed), -1, np.int64), phrases.needed.copy()
    read = 0
    for i in range(len(rows)):
        if read >= most:
            return i
        begin: Any = np.int64(texts.text[rows[i]])
        end: Any = np.int64(texts.words[rows[i]])
        if texts.stream[rows[i]]:
            begin, end = begin + end, np.int64(texts.stream[rows[i]])
        read, end = read + end + 1, begin + end
        found[i] = False
        for at in range(begin, end):
            phrase: Any = np.searchsorted(phrases.first, arena.tokens[at])
            while phrase < len(phrases.first) and phrases.first[phrase] == arena.tokens[at]:
                if last[phrase] != i and _follows(arena, at, end, phrases, phrase):
                    last[phrase], keyword = i, phrases.keyword[phrase]
                    if counted[keyword] != i:
                        counted[keyword], left[keyword] = i, phrases.needed[keyword]
                    left[keyword] -= 1
                    found[i] |= left[keyword] == 0
                phrase += 1
            if found[i]:
                break
    return len(rows)


@inlined
def _follows(arena: TokenArena, at: int, end: int, phrases: Phrases, phrase: int) -> Any:
    """True if the phrase stands at a place of the text that ends at `end`."""
    length, begin = phrases.length[phrase], phrases.begin[phrase]
    same = at + length <= end
    word = 1
    while same and word < length:
        same = arena.tokens[at + word] == phrases.tokens[begin + word]
        word += 1
    return same
