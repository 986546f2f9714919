"""Text becomes tokens for the models here. Muted keywords are compared with more than these tokens (`muting`).

A token is a word of any script, normalised (NFKC), case folded, with its combining marks; scripts that are written
without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) give a token per character, so that a phrase of them is found
by the same comparison of sequences as a phrase of words. Signs that begin a hashtag or a mention are not part of
a token: `#Café`, `@café` and `CAFÉ` are the token `café`.
Some invisible characters inside a word are dropped. A change of these rules needs new models.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt32

MAX_TOKENS: Final = 64
"""The tokens of a post that are kept in columns."""

# joiners, soft hyphen, word joiner, byte order mark, variation selectors
_INVISIBLE = re.compile("[\u00ad\u034f\u200c\u200d\u2060\ufeff\ufe00-\ufe0f]+")
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
_ALL_WORDS: Final = 2**31
_LAST_MARK = 0x1E94A  # the last combining mark outside the variation selectors


def ranges(characters: Iterable[int]) -> str:
    """Code points, ascending, as the inside of a regular expression's character class."""
    spans: list[list[int]] = []
    for character in characters:
        if spans and spans[-1][1] == character - 1:
            spans[-1][1] = character
        else:
            spans.append([character, character])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


def _unspaced() -> str:
    blocks = (c for first, last in sorted(_UNSPACED_BLOCKS) for c in range(first, last + 1))
    return ranges(c for c in blocks if chr(c).isalpha() or c == 0x3007)


MARKS: Final = ranges(c for c in range(0x300, _LAST_MARK + 1) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
"""The combining marks, as the inside of a regular expression's character class."""
_UNSPACED: Final = _unspaced()
TOKEN: Final = re.compile(f"[{_UNSPACED}][{MARKS}]*|[^\\W{_UNSPACED}](?:[^\\W{_UNSPACED}]|[{MARKS}])*")
"""Matches a token of a normalised and folded text."""
_FIRST_PLANE: Final = re.compile(f"[{_UNSPACED}{MARKS}]")
# a class with many ranges above the first plane is slow for every letter that is not in it
_NEEDS_MORE: Final = re.compile(
    f"[{ranges(c for c in range(0x300, 0x10000) if _FIRST_PLANE.match(chr(c)))}\U00010000-\U0010ffff]"
)
_WORD: Final = re.compile(r"\w+")
# bytes of ASCII text to bytes of lower-case words, all else to spaces: several times as fast as a pattern
_ASCII_WORDS = bytes(ord(chr(c).lower()) if chr(c).isalnum() or chr(c) == "_" else 0x20 for c in range(128)) * 2


def tokenize(text: str) -> list[str]:
    """The tokens of a text, in order, duplicates kept."""
    return [token.decode() for token in _words(text).split()]


def _words(text: str) -> bytes:
    """The tokens as UTF-8, with spaces between them."""
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS)
    # folding may undo the normalisation, hence a second one
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return " ".join(tokens_of(unicodedata.normalize("NFKC", folded))).encode()


def tokens_of(folded: str) -> list[str]:
    """The tokens of a normalised and folded text; a simpler pattern finds the same in most texts, six times as fast."""
    pattern = TOKEN if _NEEDS_MORE.search(folded) else _WORD
    found: list[str] = pattern.findall(folded)
    return found


def token_hashes(text: str) -> UInt32[np.ndarray, " n"]:
    """The tokens of a text as XXH32 of their UTF-8 bytes, in order; 0 is padding, so a token never is."""
    return hashed_words([_words(text)])[0]


def packed_tokens(text: str) -> bytes:
    """The first MAX_TOKENS hashed tokens of a text, uint32 little-endian: the form of `events.Post.tokens`."""
    return packed_tokens_of([text])[0]


def packed_tokens_of(texts: Sequence[str]) -> list[bytes]:
    """`packed_tokens` of each text, in a fraction of the time."""
    hashes, counts = hashed_words([_words(text) for text in texts], MAX_TOKENS)
    packed, ends = hashes.astype("<u4").tobytes(), np.cumsum(4 * counts).tolist()
    return [packed[begin:end] for begin, end in pairwise([0, *ends])]


def hashed_words(
    texts: Sequence[bytes], limit: int = _ALL_WORDS
) -> tuple[UInt32[np.ndarray, " t"], Int64[np.ndarray, " n"]]:
    """The hashes of the first `limit` words of each text, one after another, and how many each has.

    Args:
        texts: words in UTF-8 with spaces between them.
        limit: the most words of a text.

    """
    # it imports Numba, which takes a second and 100 MB; many processes hash no text
    from thunder_ingest.events.word_hashes import hash_words

    raw = np.frombuffer(b"".join(texts), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    hashes, counts = np.empty((len(raw) + len(texts)) // 2, np.uint32), np.empty(len(texts), np.int64)
    return hashes[: hash_words(raw, ends, limit, hashes, counts)], counts


def padded_tokens(packed: Sequence[bytes]) -> UInt32[np.ndarray, "n 64"]:
    """The packed tokens of n posts as rows, padded with 0."""
    tokens = np.zeros((len(packed), MAX_TOKENS), np.uint32)
    for row, of_post in zip(tokens, packed, strict=True):
        hashes = np.frombuffer(of_post, "<u4")[:MAX_TOKENS]
        row[: len(hashes)] = hashes
    return tokens
