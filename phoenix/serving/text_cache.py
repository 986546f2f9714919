"""Texts that serving has met: each is looked up and averaged once, however many requests ask about it.

Glossary of shapes:

    n: texts
    T: text tokens of a post, padded with 0
    E: width of the table of words
    K: texts kept

All that the ranker reads of a text is the mean of its words' rows, which depends on words and parameters alone. To find
64 random rows for each of two thousand candidates takes a CPU a seventh of a request, and most candidates have been
candidates before. So the means stay, the newest K of them, found by a 64-bit hash of the words in their order: no one
has to say when a post is edited or gone.
"""

from threading import Lock
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, UInt32, UInt64

from phoenix.features.inputs import token_rows
from thunder_ingest.kernels.compiled import kernel

TEXTS_KEPT: Final = 1 << 20
"""What they take grows with use: at most 256 MiB at a width of 64."""
_PLACES: Final = 8
"""Of the hash index for each text kept: a text whose place another one takes is looked up again."""
_NONE: Final = np.uint64(0)
"""The key of a text without words, of which nothing is kept."""
_SCALE: Final = np.uint64(0x9E3779B97F4A7C15)
_START: Final = np.uint64(0xD1B54A32D192ED03)
_FOLD: Final = np.uint64(32)


class Texts:
    """The mean of the rows of each text's words, looked up where it is not known yet. For any thread.

    Args:
        table: of words, on the host; row 0 is no word.
        kept: how many texts at most, a power of two.

    Attributes:
        new: how many texts with words were not known, so far.

    """

    def __init__(self, table: Float32[np.ndarray, "rows E"], kept: int = TEXTS_KEPT) -> None:
        self.new = 0
        self._table = table
        self._lock = Lock()
        self._next = 0
        self._keys = np.zeros(kept, np.uint64)
        self._means = np.zeros((kept, table.shape[1]), np.float32)
        self._index = np.zeros(_PLACES * kept, np.int32)

    def means(self, tokens: UInt32[np.ndarray, "*n T"]) -> Float32[np.ndarray, "*n E"]:
        """The mean of each text; zeros where there are no words."""
        texts = np.ascontiguousarray(tokens.reshape(-1, tokens.shape[-1]))
        means = np.zeros((len(texts), self._means.shape[1]), np.float32)
        keys, new = np.zeros(len(texts), np.uint64), np.zeros(len(texts), np.int32)
        _name(texts, keys)
        with self._lock:
            new = new[: _find(keys, self._index, self._keys, self._means, means, new)]
            self.new += len(new)
        if len(new):
            _average(self._table, token_rows(texts[new], len(self._table)), new, means)
            with self._lock:
                self._next = _keep(keys, new, means, self._next, self._index, self._keys, self._means)
        return means.reshape(*tokens.shape[:-1], means.shape[1])


@kernel
def _name(texts: UInt32[np.ndarray, "n T"], keys: UInt64[np.ndarray, " n"]) -> None:
    """Each step is a bijection of the key so far: texts that differ anywhere agree by chance alone."""
    for text in range(len(texts)):
        key, words = _START, np.uint32(0)
        for place in range(texts.shape[1]):
            word = texts[text, place]
            words |= word
            key = (key ^ np.uint64(word)) * _SCALE
            key ^= key >> _FOLD
        if words != 0:
            keys[text] = max(key, np.uint64(1))


@kernel
def _find(
    wanted: UInt64[np.ndarray, " n"],
    index: Int32[np.ndarray, " places"],
    keys: UInt64[np.ndarray, " K"],
    kept: Float32[np.ndarray, "K E"],
    means: Float32[np.ndarray, "n E"],
    new: Int32[np.ndarray, " n"],
) -> int:
    """Copy what is known, list what is not, and count the latter."""
    count = 0
    last = np.uint64(len(index) - 1)
    for text in range(len(wanted)):
        key = wanted[text]
        if key == _NONE:
            continue
        entry = index[key & last]
        if keys[entry] == key:
            means[text] = kept[entry]
        else:
            new[count] = text
            count += 1
    return count


@kernel
def _average(
    table: Float32[np.ndarray, "rows E"],
    rows: Int32[np.ndarray, "new T"],
    new: Int32[np.ndarray, " new"],
    means: Float32[np.ndarray, "n E"],
) -> None:
    """Word after word, as the ranker does it, so that the bits depend on the text alone."""
    for text in range(len(new)):
        mean, words = means[new[text]], 0
        for place in range(rows.shape[1]):
            row = rows[text, place]
            if row != 0:
                words += 1
                for each in range(len(mean)):
                    mean[each] += table[row, each]
        for each in range(len(mean)):
            mean[each] /= np.float32(words)


@kernel
def _keep(
    names: UInt64[np.ndarray, " n"],
    new: Int32[np.ndarray, " new"],
    means: Float32[np.ndarray, "n E"],
    entry: int,
    index: Int32[np.ndarray, " places"],
    keys: UInt64[np.ndarray, " K"],
    kept: Float32[np.ndarray, "K E"],
) -> int:
    """Write new texts over the oldest ones, from an entry on; says which is the next."""
    last = np.uint64(len(index) - 1)
    for text in new:
        keys[entry], kept[entry] = names[text], means[text]
        index[names[text] & last] = entry
        entry = entry + 1 if entry + 1 < len(keys) else 0
    return entry
