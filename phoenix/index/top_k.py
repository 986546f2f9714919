"""Top-k selection and sort of (score, id): greater scores first, ties by descending id.

The selection is quickselect (Hoare, 1961): linear in the number of candidates.

glossary of shapes: `n` candidates, of which the first `count` are in use.
"""

import numpy as np
from jaxtyping import Float32, Int64

from thunder_ingest.kernels.compiled import inlined, kernel


@inlined
def _before(score: float, id_: int, other_score: float, other_id: int) -> bool:
    return score > other_score or (score == other_score and id_ > other_id)


@kernel
def _split(scores: Float32[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], low: int, high: int) -> int:
    """Hoare's partition of `low..high`: returns the last place of the left part."""
    middle = (low + high) // 2
    score, id_ = scores[middle], ids[middle]
    left, right = low - 1, high + 1
    while True:
        left += 1
        while _before(scores[left], ids[left], score, id_):
            left += 1
        right -= 1
        while _before(score, id_, scores[right], ids[right]):
            right -= 1
        if left >= right:
            return right
        scores[left], scores[right] = scores[right], scores[left]
        ids[left], ids[right] = ids[right], ids[left]


@kernel
def select(scores: Float32[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], count: int, k: int) -> None:
    """Move the k best of the first `count` to the front, the k-th best to place k - 1; 1 <= k <= count."""
    low, high = 0, count - 1
    while low < high:
        end = _split(scores, ids, low, high)
        if k - 1 <= end:
            high = end
        else:
            low = end + 1


@kernel
def sort(scores: Float32[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], count: int) -> None:
    """Quicksort the first `count`, the smaller part first, so that at most 64 parts wait."""
    waiting = np.empty((64, 2), np.int64)
    waiting[0, 0], waiting[0, 1] = 0, count - 1
    depth = 1
    while depth:
        depth -= 1
        low, high = waiting[depth, 0], waiting[depth, 1]
        while low < high:
            end = _split(scores, ids, low, high)
            if end - low < high - end - 1:
                waiting[depth, 0], waiting[depth, 1] = end + 1, high
                high = end
            else:
                waiting[depth, 0], waiting[depth, 1] = low, end
                low = end + 1
            depth += 1
