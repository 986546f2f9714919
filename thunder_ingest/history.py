"""The action history: raw entries fold into positions, one for what a viewer did with a post in one go.

What counts is a function of the set of entries alone, whatever their order, duplicates or earlier compactions:
- Of an action on a post, only the newest of each five minutes of the clock counts.
- An undo takes back that action on that post wherever it is older; at the same time the action stands.
- Entries on one post at most five minutes apart, one to the next, make one position; it carries the actions that stand,
  the time of the newest of them and the longest dwell. An impression stands for itself, as no action.

glossary of shapes: n raw entries, m entries that matter, g positions.
"""

from functools import reduce
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from thunder_ingest.events import ACTIONS, LAST_TIME_MS
from thunder_ingest.user_entries import HISTORY

WINDOW_MS: Final = 300_000
_PRESENCE: Final = 31
"""The action code of a mere moment, kept so that entries left out do not tear a position apart."""

POSITION: Final = np.dtype(
    [
        ("post_id", "i8"),
        ("author_id", "i8"),
        ("at", "i8"),
        ("actions", "u4"),  # a bit for each of ACTIONS
        ("dwell_ms", "u4"),
        ("surface", "u1"),
    ],
    align=True,
)

Entries = NDArray[Any]  # of dtype HISTORY


class _Folded(NamedTuple):
    done: Entries  # [m], by post and time
    undone: Entries  # [u], one for a post and action
    undone_by: Int64[np.ndarray, " m"]  # index into undone, -1 where nothing takes the entry back
    position: Int64[np.ndarray, " m"]  # index into positions
    positions: NDArray[Any]  # [g] of dtype POSITION, by post and time; `at` is 0 where nothing stands


def positions(entries: Entries, limit: int, passed_over: bool = True) -> NDArray[Any]:
    """The newest positions of a history as POSITION records, oldest first.

    Args:
        entries: [n] in any order.
        limit: so many at most.
        passed_over: whether posts that were seen and no more are positions.

    """
    folded = _fold(*_essential(entries)).positions
    counting: NDArray[Any] = folded[_counts(folded, passed_over)]
    return np.asarray(counting[_oldest_first(counting["at"], counting["post_id"])[-limit:]])


class Compacted(NamedTuple):
    """A history divided: what still matters, and what was done on posts that have left it."""

    kept: Entries
    left: Entries


def compacted(entries: Entries, limit: int, passed_over: bool = True) -> Compacted:
    """Leave out what no longer matters: `positions` of what is kept, and of that with later entries, are as before.

    Kept are the newest `limit` positions, as many that do not count, the undoings that these need, and the newest
    `limit` others; oldest first. Arguments as of `positions`.
    """
    done, undone, undone_by, position, folded = _fold(*_essential(entries))
    kept = np.zeros(len(folded), bool)
    last_at = np.zeros(len(folded), np.int64)
    np.maximum.at(last_at, position, done["at"])
    counts = _counts(folded, passed_over)
    for among, at in ((counts, folded["at"]), (~counts, last_at)):
        groups = np.flatnonzero(among)
        kept[groups[_oldest_first(at[groups], folded["post_id"][groups])[-limit:]]] = True
    needed = np.zeros(len(undone), bool)
    needed[_oldest_first(undone["at"], undone["post_id"])[-limit:]] = True
    stays = kept[position]
    needed[undone_by[stays & (undone_by >= 0)]] = True
    whole = np.concatenate([done[stays], undone[needed]])
    return Compacted(whole[_oldest_first(whole["at"], whole["post_id"])], done[~stays])


def _counts(folded: NDArray[Any], passed_over: bool) -> Bool[np.ndarray, " g"]:
    """Which positions are shown: something stands of them, and where that is asked for an action."""
    return np.asarray((folded["at"] > 0) & (passed_over | (folded["actions"] > 0)))


def _essential(entries: Entries) -> tuple[Entries, Entries]:
    """What was done and what was undone, without the entries that can never matter again.

    Of what was done the newest of each post, window and action, and the first moment of each post and window; of what
    was undone the newest of each post and action, sorted by these.
    """
    undone = entries[entries["undo"] == 1]
    undone = undone[np.lexsort((undone["at"], undone["action"], undone["post_id"]))]
    undone = undone[is_last(undone["post_id"], undone["action"])]
    done = entries[entries["undo"] == 0]
    window = done["at"] // WINDOW_MS
    # action, time in the window, dwell and surface in one number: 5 + 19 + 32 + 4 bits
    minor = done["action"].astype(np.int64) * WINDOW_MS + done["at"] % WINDOW_MS
    minor = (minor << 36) | (done["dwell_ms"].astype(np.int64) << 4) | (done["surface"] & 15)
    order = np.lexsort((done["author_id"], minor, window, done["post_id"]))
    done, window = done[order], window[order]
    newest = is_last(done["post_id"], window, done["action"]) & (done["action"] != _PRESENCE)
    first = np.flatnonzero(is_last(done["post_id"], window))
    first = np.concatenate([[0], first[:-1] + 1]) if len(first) else first
    return np.concatenate([done[newest], _moments(done, newest, first)]), undone


def _moments(done: Entries, kept: Bool[np.ndarray, " n"], starts: Int64[np.ndarray, " w"]) -> Entries:
    """The first moment of each window, where no kept entry tells it."""
    first_at = np.minimum.reduceat(done["at"], starts)
    told_at = np.minimum.reduceat(np.where(kept, done["at"], LAST_TIME_MS + 1), starts)
    untold = first_at < told_at
    moments = np.zeros(np.count_nonzero(untold), HISTORY)
    moments["at"], moments["post_id"] = first_at[untold], done["post_id"][starts[untold]]
    moments["action"] = _PRESENCE
    return moments


def _fold(done: Entries, undone: Entries) -> _Folded:
    done = done[np.lexsort((done["at"], done["post_id"]))]
    apart = np.diff(done["post_id"], prepend=0) != 0
    apart |= np.diff(done["at"], prepend=0) > WINDOW_MS
    starts, position = np.flatnonzero(apart), np.cumsum(apart) - 1
    undone_by = _undone_by(done, undone)
    stands = (undone_by < 0) & (done["action"] != _PRESENCE)
    bits = np.where(done["action"] < len(ACTIONS), np.uint32(1) << done["action"].astype(np.uint32), np.uint32(0))
    folded = np.zeros(len(starts), POSITION)
    folded["post_id"] = done["post_id"][starts]
    folded["actions"] = np.bitwise_or.reduceat(np.where(stands, bits, 0), starts)
    for name in ("author_id", "at", "dwell_ms", "surface"):
        folded[name] = np.maximum.reduceat(np.where(stands, done[name], 0), starts)
    return _Folded(done, undone, undone_by, position, folded)


def _undone_by(done: Entries, undone: Entries) -> Int64[np.ndarray, " m"]:
    if not len(undone):
        return np.full(len(done), -1)
    posts = np.unique(undone["post_id"])
    pairs = np.searchsorted(posts, undone["post_id"]) * 32 + undone["action"]
    post = np.minimum(np.searchsorted(posts, done["post_id"]), len(posts) - 1)
    pair = post * 32 + done["action"]
    index = np.minimum(np.searchsorted(pairs, pair), len(pairs) - 1)
    same = (posts[post] == done["post_id"]) & (pairs[index] == pair)
    return np.where(same & (done["at"] < undone["at"][index]), index, -1)


def is_last(*keys: NDArray[Any]) -> Bool[np.ndarray, " n"]:
    """Where, in arrays sorted together, the next entry has other keys."""
    last = np.ones(len(keys[0]), bool)
    last[:-1] = reduce(np.logical_or, [key[1:] != key[:-1] for key in keys])
    return last


def _oldest_first(at: NDArray[Any], post_id: NDArray[Any]) -> Int64[np.ndarray, " n"]:
    return np.lexsort((post_id, at))
