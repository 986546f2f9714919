"""A cache of texts: the mean word embedding of each text, computed once for all requests.

Shapes: see `phoenix.features.inputs`; n counts texts, E is the width of the table of words. In addition:

    Q: texts that the cache keeps

The ranker reads of a text only the mean of its words' rows, which depends on the words and the parameters alone. On a
CPU, the lookup of 64 random rows for each of two thousand candidates takes a seventh of a request, and most candidates
were candidates before. So the cache keeps the newest Q means. It finds them by a 64-bit hash of the words in their
order: an edited text has another key, and nothing must be invalidated.
"""

from threading import Lock
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, UInt32, UInt64

from phoenix.features.inputs import token_rows
from thunder_ingest.kernels.compiled import kernel

TEXTS_KEPT: Final = 1 << 20
"""Default size. Its memory grows with use, to at most 256 MiB at a width of 64."""
_PLACES: Final = 8
"""Places of the hash index for each kept text; a text that loses its place to another is computed again."""
_NONE: Final = np.uint64(0)
"""The key of a text without words, which the cache does not keep."""
_SCALE: Final = np.uint64(0x9E3779B97F4A7C15)
_START: Final = np.uint64(0xD1B54A32D192ED03)
_FOLD: Final = np.uint64(32)


class Texts:
    """The cache of mean word embeddings. Any thread may call its methods.

    Args:
        table: the table of words on the host; row 0 is the absent word.
        kept: maximum number of texts, a power of two.

    Attributes:
        new: cache misses so far, without empty texts.

    """

    def __init__(self, table: Float32[np.ndarray, "R E"], kept: int = TEXTS_KEPT) -> None:
        self.new = 0
        self._table = table
        self._lock = Lock()
        self._next = 0
        self._keys = np.zeros(kept, np.uint64)
        self._means = np.zeros((kept, table.shape[1]), np.float32)
        self._index = np.zeros(_PLACES * kept, np.int32)

    def means(self, tokens: UInt32[np.ndarray, "*n T"]) -> Float32[np.ndarray, "*n E"]:
        """The mean embedding of each text; zeros for a text without words."""
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
    """Hash each text. Each step is a bijection of the key so far, so different texts collide only by chance."""
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
    keys: UInt64[np.ndarray, " Q"],
    kept: Float32[np.ndarray, "Q E"],
    means: Float32[np.ndarray, "n E"],
    new: Int32[np.ndarray, " n"],
) -> int:
    """Copy the means of cached texts, list the texts that are missing, and return their number."""
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
    table: Float32[np.ndarray, "R E"],
    rows: Int32[np.ndarray, "new T"],
    new: Int32[np.ndarray, " new"],
    means: Float32[np.ndarray, "n E"],
) -> None:
    """Average word by word in order, as the ranker does, so that the bits depend on the text alone."""
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
    keys: UInt64[np.ndarray, " Q"],
    kept: Float32[np.ndarray, "Q E"],
) -> int:
    """Write new texts over the oldest ones, from `entry` on; returns the next entry."""
    last = np.uint64(len(index) - 1)
    for text in new:
        keys[entry], kept[entry] = names[text], means[text]
        index[names[text] & last] = entry
        entry = entry + 1 if entry + 1 < len(keys) else 0
    return entry
