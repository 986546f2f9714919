"""Text becomes tokens once, here: for muted keywords and for the models alike.

A token is a word of any script, normalised (NFKC), case folded, with its combining marks; scripts that are written
without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) give a token per character, so that a phrase of them is found
by the same comparison of sequences as a phrase of words. Signs that begin a hashtag or a mention are not part of
a token: `#Café`, `@café` and `CAFÉ` are the token `café`. Invisible characters inside a word are dropped, so that
they hide nothing from a muted keyword.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import xxhash
from jaxtyping import Bool, UInt32

MAX_TOKENS: Final = 64
"""The tokens of a post that are kept in columns."""

# joiners, soft hyphen, word joiner, byte order mark, variation selectors
_INVISIBLE = dict.fromkeys((0x00AD, 0x034F, 0x200C, 0x200D, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10)))
_UNSPACED_BLOCKS = (
    (0x3005, 0x3007),  # iteration mark, ideographic zero
    (0x3041, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x1AFF0, 0x1B16F),  # kana supplements
    (0x20000, 0x323AF),  # Han extensions
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
)
_LAST_MARK = 0x1E94A  # the last combining mark outside the variation selectors


def _ranges(characters: Iterable[int]) -> str:
    """Code points, ascending, as the inside of a regular expression's character class."""
    spans: list[list[int]] = []
    for character in characters:
        if spans and spans[-1][1] == character - 1:
            spans[-1][1] = character
        else:
            spans.append([character, character])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


def _pattern() -> re.Pattern[str]:
    marks = _ranges(c for c in range(0x300, _LAST_MARK + 1) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
    blocks = (c for first, last in sorted(_UNSPACED_BLOCKS) for c in range(first, last + 1))
    unspaced = _ranges(c for c in blocks if chr(c).isalpha() or c == 0x3007)
    return re.compile(f"[{unspaced}][{marks}]*|[^\\W{unspaced}](?:[^\\W{unspaced}]|[{marks}])*")


_TOKEN = _pattern()
# bytes of ASCII text to bytes of lower-case words, all else to spaces: several times as fast as a pattern
_ASCII_WORDS = bytes(ord(chr(c).lower()) if chr(c).isalnum() or chr(c) == "_" else 0x20 for c in range(128)) * 2
_KNOWN_HASHES = 1 << 18


def tokenize(text: str) -> list[str]:
    """The tokens of a text, in order, duplicates kept."""
    return [token.decode() for token in _tokens(text)]


def _tokens(text: str) -> list[bytes]:
    """The tokens as UTF-8."""
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS).split()
    # folding may undo the normalisation, hence a second one
    folded = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold()
    return [token.encode() for token in _TOKEN.findall(unicodedata.normalize("NFKC", folded))]


class _Hashes(dict[bytes, bytes]):
    """The hash of each token met lately, packed; 0 is padding, so a token never is."""

    def __missing__(self, token: bytes) -> bytes:
        if len(self) >= _KNOWN_HASHES:
            self.clear()
        self[token] = packed = (xxhash.xxh32_intdigest(token) or 1).to_bytes(4, "little")
        return packed


_hash_of = _Hashes().__getitem__


def token_hashes(text: str) -> UInt32[np.ndarray, " n"]:
    """The tokens of a text as XXH32 of their UTF-8 bytes, in order; 0 is padding, so a token never is."""
    return np.frombuffer(b"".join(map(_hash_of, _tokens(text))), "<u4").astype(np.uint32)


def packed_tokens(text: str) -> bytes:
    """The first MAX_TOKENS hashed tokens of a text, uint32 little-endian: the form of `events.Post.tokens`."""
    tokens = _tokens(text)
    del tokens[MAX_TOKENS:]
    return b"".join(map(_hash_of, tokens))


def padded_tokens(packed: Sequence[bytes]) -> UInt32[np.ndarray, "n 64"]:
    """The packed tokens of n posts as rows, padded with 0."""
    tokens = np.zeros((len(packed), MAX_TOKENS), np.uint32)
    for row, of_post in zip(tokens, packed, strict=True):
        hashes = np.frombuffer(of_post, "<u4")[:MAX_TOKENS]
        row[: len(hashes)] = hashes
    return tokens


def contains_sequence(tokens: UInt32[np.ndarray, "n t"], phrase: UInt32[np.ndarray, " k"]) -> Bool[np.ndarray, " n"]:
    """Which rows contain the phrase, token for token and uninterrupted; none contain an empty phrase.

    Args:
        tokens: hashed tokens, a row each, padded with 0.
        phrase: hashed tokens, without padding.

    """
    starts = tokens.shape[1] - len(phrase) + 1
    if not 0 < len(phrase) <= tokens.shape[1]:
        return np.zeros(len(tokens), dtype=bool)
    found = tokens[:, :starts] == phrase[0]
    for offset in range(1, len(phrase)):
        found &= tokens[:, offset : offset + starts] == phrase[offset]
    return np.asarray(found.any(axis=1))
