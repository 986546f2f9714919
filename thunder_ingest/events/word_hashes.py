"""Passes over the bytes of many texts: XXH32 (seed 0) of every word, and a search for unusual characters."""

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32

from thunder_ingest.kernels.compiled import inlined, kernel

# the primes of XXH32; the low 32 bits of int64 sums and products are right, also of negative ones
_P1: Final = 0x9E3779B1
_P2: Final = 0x85EBCA77
_P3: Final = 0xC2B2AE3D
_P4: Final = 0x27D4EB2F
_P5: Final = 0x165667B1
_LOW: Final = 0xFFFFFFFF
_SPACE: Final = 0x20

# what a byte of text is: all else is unusual
_WORD, _GAP, _OPENER, _CLOSER, _JOINER = 1, 2, 4, 8, 16


def _kinds() -> UInt8[np.ndarray, " 256"]:
    kinds = np.zeros(256, np.uint8)
    for character in map(chr, range(128)):
        if character.isalnum() or character == "_":
            kinds[ord(character)] = _WORD
        elif character.isspace():
            kinds[ord(character)] = _GAP
    for characters, kind in (("#@([{\"'*-", _OPENER), (").]},!?:;\"'*-", _CLOSER), ('.,!?:;()[]{}"#@*-/\\&', _JOINER)):
        for character in characters:
            kinds[ord(character)] |= kind
    return kinds


_KINDS: Final = _kinds()


@kernel
def hash_words(
    raw: UInt8[np.ndarray, " bytes"],
    ends: Int64[np.ndarray, " n"],
    limit: int,
    hashes: UInt32[np.ndarray, " room"],
    counts: Int64[np.ndarray, " n"],
) -> int:
    """Hash the words of texts that stand one after another in `raw`, each ending at its place in `ends`.

    Args:
        raw: words and spaces.
        ends: where each text ends.
        limit: so many words of a text are hashed.
        hashes: filled with the hashes; 0 stands for no word, so a word with that hash gets 1.
        counts: filled with how many of them each text has.

    Returns:
        how many there are in all.

    """
    total, at = 0, 0
    for text in range(len(ends)):
        first = total
        end = ends[text]
        while total - first < limit:
            while at < end and raw[at] == _SPACE:
                at += 1
            if at == end:
                break
            begin = at
            while at < end and raw[at] != _SPACE:
                at += 1
            hashes[total] = max(1, _xxh32(raw, begin, at))
            total += 1
        at = end
        counts[text] = total - first
    return total


@kernel
def find_unusual(
    raw: UInt8[np.ndarray, " bytes"],
    begins: Int64[np.ndarray, " n"],
    lengths: Int64[np.ndarray, " n"],
    is_unusual: Bool[np.ndarray, " n"],
) -> None:
    """Write False for texts of ASCII words with ordinary punctuation (see `muting`), at most one mark at a place."""
    for text in range(len(begins)):
        before: Any = np.int64(_GAP)
        kind: Any = np.int64(_GAP)
        at, end, plain = begins[text], begins[text] + lengths[text], True
        while plain and at <= end:
            after: Any = np.int64(_KINDS[raw[at]]) if at < end else np.int64(_GAP)
            if kind & (_OPENER | _CLOSER | _JOINER):
                needed = 0
                if before == _WORD:
                    needed = _JOINER if after == _WORD else _CLOSER
                elif after == _WORD:
                    needed = _OPENER
                alone = after | before in (_WORD, _GAP, _WORD | _GAP)  # no other mark beside it
                plain = alone and (needed == 0 or kind & needed != 0)
            elif kind == 0:
                plain = False
            before, kind, at = kind, after, at + 1
        is_unusual[text] = not plain


@inlined
def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _LOW


@inlined
def _four(raw: UInt8[np.ndarray, " bytes"], at: int) -> Any:
    return np.int64(raw[at]) | np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]) << 16 | np.int64(raw[at + 3]) << 24


@inlined
def _lane(lane: int, four: int) -> int:
    return _rotated((lane + four * _P2) & _LOW, 13) * _P1 & _LOW


@kernel
def _xxh32(raw: UInt8[np.ndarray, " bytes"], begin: int, end: int) -> Any:
    at = begin
    mixed: Any = _P5
    if end - begin >= 16:
        a, b, c, d = (_P1 + _P2) & _LOW, _P2, 0, -_P1 & _LOW
        while at + 16 <= end:
            a, b = _lane(a, _four(raw, at)), _lane(b, _four(raw, at + 4))
            c, d = _lane(c, _four(raw, at + 8)), _lane(d, _four(raw, at + 12))
            at += 16
        mixed = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
    mixed = (mixed + end - begin) & _LOW
    while at + 4 <= end:
        mixed = _rotated((mixed + _four(raw, at) * _P3) & _LOW, 17) * _P4 & _LOW
        at += 4
    while at < end:
        mixed = _rotated((mixed + np.int64(raw[at]) * _P5) & _LOW, 11) * _P1 & _LOW
        at += 1
    mixed = (mixed ^ mixed >> 15) * _P2 & _LOW
    mixed = (mixed ^ mixed >> 13) * _P3 & _LOW
    return mixed ^ mixed >> 16
