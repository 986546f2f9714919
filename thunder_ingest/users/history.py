"""The action history: raw entries fold into positions, one for each visit of a viewer to a post.

Positions depend on the set of entries alone; order, duplicates and earlier compactions make no difference:
- Of each action on a post, only the newest within each five-minute window of the clock counts.
- An undo cancels older entries of its action on its post; DONE_WINS decides at equal times.
- Entries on one post with gaps of at most five minutes make one position. It has the actions that count, the time of
  the newest of them and the longest dwell. An impression makes a position without an action.

The window of five minutes, and one position per post and window, are those of the published Home Mixer.

glossary of shapes: n raw entries, g positions, w windows.
"""

from collections.abc import Callable
from functools import cache, reduce
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from thunder_ingest.events import ACTIONS
from thunder_ingest.events.actions import DONE_WINS, FIRST_SURFACE
from thunder_ingest.users.entries import HISTORY

WINDOW_MS: Final = 300_000
_PRESENCE: Final = 31
"""The action code of a bare moment: it keeps a position whole when its other entries are dropped."""
_CODES: Final = 32
_ACTIONS: Final = len(ACTIONS)
_FIELDS: Final = HISTORY.names or ()
_NEGATIVE: Final = DONE_WINS

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


class _Sorted(NamedTuple):
    """The fields of HISTORY, [n] each, by post and time."""

    at: Any
    post_id: Any
    author_id: Any
    dwell_ms: Any
    action: Any
    undo: Any
    surface: Any


class _Folded(NamedTuple):
    """The role of each entry, and the positions."""

    position: Int64[np.ndarray, " n"]  # index of the position that needs the entry, -1 without one
    is_moment: Bool[np.ndarray, " n"]  # needed only as the first moment of a window
    undone_by: Int64[np.ndarray, " n"]  # index of the undo that cancels the entry, -1 without one
    is_last_undo: Bool[np.ndarray, " n"]  # the newest undo of its post and action
    post_id: Int64[np.ndarray, " g"]
    author_id: Int64[np.ndarray, " g"]
    at: Int64[np.ndarray, " g"]  # 0 if no entry counts
    last_at: Int64[np.ndarray, " g"]  # of any entry but an undo
    actions: Int64[np.ndarray, " g"]
    dwell_ms: Int64[np.ndarray, " g"]
    surface: Int64[np.ndarray, " g"]


class Read(NamedTuple):
    """A history as a request needs it."""

    positions: NDArray[Any]  # [<= limit] of POSITION, oldest first
    rejected: Int64[np.ndarray, " r"]  # posts with a negative action that counts, at any place of the history


def positions(entries: Entries, limit: int, passed_over: bool = True) -> NDArray[Any]:
    """The positions of `read`."""
    return read(entries, limit, passed_over).positions


def read(entries: Entries, limit: int, passed_over: bool = True) -> Read:
    """The newest positions of a history, and the posts that the viewer rejected.

    Args:
        entries: [n] in any order.
        limit: the maximum number of positions.
        passed_over: True to include posts that were seen without an action.

    """
    if not len(entries):
        return Read(np.zeros(0, POSITION), np.zeros(0, np.int64))
    _, folded = _fold(entries)
    counting = np.flatnonzero(_counts(folded, passed_over))
    newest = counting[_oldest_first(folded.at[counting], folded.post_id[counting])[-limit:]]
    return Read(_shown(folded, newest), folded.post_id[(folded.actions & _NEGATIVE) != 0])


def positions_of_many(
    entries: Entries, viewer: Int64[np.ndarray, " n"], limit: int, passed_over: bool = True
) -> tuple[NDArray[Any], Int64[np.ndarray, " g"]]:
    """The `positions` of several viewers at once, a hundred times faster than one by one: for training.

    Args:
        entries: [n] in any order.
        viewer: the viewer of each entry.
        limit: the maximum number of positions of a viewer.
        passed_over: as in `positions`.

    Returns:
        the positions by viewer, oldest first, and the viewer of each.

    """
    if not len(entries):
        return np.zeros(0, POSITION), np.zeros(0, np.int64)
    order = np.lexsort((entries["post_id"], viewer))
    entries, viewer = entries[order], viewer[order]
    ends = np.flatnonzero(is_last(viewer, entries["post_id"])) + 1
    first = np.append(0, ends[:-1])
    post_id, viewer = entries["post_id"][first], viewer[first]
    entries["post_id"] = np.repeat(np.arange(len(first)), ends - first)  # of each viewer its own
    _, folded = _fold(entries)
    counting = np.flatnonzero(_counts(folded, passed_over))
    counting = counting[np.lexsort((folded.post_id[counting], folded.at[counting], viewer[folded.post_id[counting]]))]
    whose = viewer[folded.post_id[counting]]
    newest = np.searchsorted(whose, whose, "right") - np.arange(len(whose)) <= limit
    shown = _shown(folded, counting[newest])
    shown["post_id"] = post_id[shown["post_id"]]
    return shown, whose[newest]


def _shown(folded: _Folded, index: Int64[np.ndarray, " g"]) -> NDArray[Any]:
    """Some positions as POSITION records."""
    shown = np.empty(len(index), POSITION)
    for name in POSITION.names or ():
        shown[name] = getattr(folded, name)[index]
    shown["surface"][shown["surface"] < FIRST_SURFACE] = 0  # codes of an earlier version name no surface
    return shown


def warm_up() -> None:
    """Compile the kernel that folds entries, which takes seconds, before the first request."""
    positions(np.zeros(1, HISTORY), 1)


class Compacted(NamedTuple):
    """The entries that a history keeps, the entries of posts that left it, and the negative ones among these."""

    kept: Entries
    left: Entries
    rejected: Entries


def compacted(entries: Entries, limit: int, passed_over: bool = True) -> Compacted:
    """Drop entries without changing `positions`, also after later entries are added.

    It keeps, oldest first, the entries of the newest `limit` positions, of as many positions that are not shown, the
    undos that these need, and the newest `limit` other undos. Arguments as for `positions`.
    """
    if not len(entries):
        return Compacted(entries, entries, entries)
    ordered, folded = _fold(entries)
    ordered[folded.is_moment] = _moments(ordered[folded.is_moment])
    essential = np.flatnonzero(folded.position >= 0)
    stays = _kept_positions(folded, limit, passed_over)[folded.position[essential]]
    undone = np.flatnonzero(folded.is_last_undo)
    needed = np.zeros(len(ordered), bool)
    needed[undone[_oldest_first(ordered["at"][undone], ordered["post_id"][undone])[-limit:]]] = True
    undone_by = folded.undone_by[essential[stays]]
    needed[undone_by[undone_by >= 0]] = True
    needed[essential[stays]] = True
    whole = ordered[needed]
    gone = essential[~stays]
    left, counts = ordered[gone], folded.undone_by[gone] < 0
    rejected = left[counts & ((_NEGATIVE >> left["action"].astype(np.int64) & 1) == 1)]
    return Compacted(whole[_oldest_first(whole["at"], whole["post_id"])], left, rejected)


def _kept_positions(folded: _Folded, limit: int, passed_over: bool) -> Bool[np.ndarray, " g"]:
    kept = np.zeros(len(folded.at), bool)
    counts = _counts(folded, passed_over)
    for among, at in ((counts, folded.at), (~counts, folded.last_at)):
        groups = np.flatnonzero(among)
        kept[groups[_oldest_first(at[groups], folded.post_id[groups])[-limit:]]] = True
    return kept


def _counts(folded: _Folded, passed_over: bool) -> Bool[np.ndarray, " g"]:
    """True for positions that are shown: an entry counts, and it is an action unless `passed_over`."""
    return np.asarray((folded.at > 0) & (passed_over | (folded.actions > 0)))


def _moments(entries: Entries) -> Entries:
    """Entries that keep time and post alone."""
    moments = np.zeros(len(entries), HISTORY)
    moments["at"], moments["post_id"], moments["action"] = entries["at"], entries["post_id"], _PRESENCE
    return moments


def _fold(entries: Entries) -> tuple[Entries, _Folded]:
    """The entries sorted by post and time, and their roles."""
    ordered = entries[np.lexsort((entries["at"], entries["post_id"]))]
    folded, count = compiled_fold()(_Sorted._make(np.ascontiguousarray(ordered[name]) for name in _FIELDS))
    return ordered, _Folded(*folded[:4], *(column[:count] for column in folded[4:]))


@cache
def compiled_fold() -> Callable[[_Sorted], tuple[_Folded, int]]:
    """`fold_posts` as a kernel. The import of Numba takes a second and 100 MB, and most processes fold nothing."""
    from thunder_ingest.kernels.compiled import kernel

    return kernel(fold_posts)


def fold_posts(entries: _Sorted) -> tuple[_Folded, int]:
    """Fold entries, sorted by post and time, into positions; returns the roles and the number of positions."""
    # local names: each use of a member of a tuple counts a reference
    at, post_id, author_id, dwell_ms, action, undo, surface = entries
    n = len(at)
    position, undone_by = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    is_moment, is_last_undo = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    folded = np.zeros((7, n), np.int64)
    of_post, of_author, newest_at, last_at, actions, longest, where = folded
    newest = np.full(_CODES, -1, np.int64)  # entry of each action in the window
    undone = np.full(_CODES, -1, np.int64)  # newest undo of each action on the post
    count, start = 0, 0
    while start < n:
        undone[:] = -1
        end = start
        while end < n and post_id[end] == post_id[start]:
            if undo[end]:
                code = action[end] & _PRESENCE
                if undone[code] >= 0:
                    is_last_undo[undone[code]] = False
                undone[code], is_last_undo[end] = end, True
            end += 1
        i, first_position = start, count
        while i < end:
            if undo[i]:
                i += 1
                continue
            if count == first_position or at[i] - last_at[count - 1] > WINDOW_MS:
                of_post[count] = post_id[i]
                count += 1
            first, window, used, has_first, p = i, at[i] // WINDOW_MS, 0, False, count - 1
            while i < end and at[i] // WINDOW_MS == window:
                code = action[i] & _PRESENCE  # stay within the bounds of `newest`
                if not undo[i]:
                    last_at[p] = at[i]
                    if code != _PRESENCE:
                        other = newest[code] if used >> code & 1 else i
                        same = at[i] == at[other]
                        if not same or (dwell_ms[i], surface[i], author_id[i]) >= (
                            dwell_ms[other],
                            surface[other],
                            author_id[other],
                        ):
                            newest[code] = i
                        used |= 1 << code
                i += 1
            for code in range(_CODES):
                if not used >> code & 1:
                    continue
                e = newest[code]
                position[e] = p
                has_first |= at[e] == at[first]
                if undone[code] >= 0 and at[e] + (DONE_WINS >> code & 1) <= at[undone[code]]:
                    undone_by[e] = undone[code]
                    continue
                if code < _ACTIONS:
                    actions[p] |= 1 << code
                newest_at[p], of_author[p] = max(newest_at[p], at[e]), max(of_author[p], author_id[e])
                longest[p], where[p] = max(longest[p], np.int64(dwell_ms[e])), max(where[p], np.int64(surface[e]))
            if not has_first:
                position[first], is_moment[first] = p, True
        start = end
    return _Folded(
        position, is_moment, undone_by, is_last_undo, of_post, of_author, newest_at, last_at, actions, longest, where
    ), count


def is_last(*keys: NDArray[Any]) -> Bool[np.ndarray, " n"]:
    """True for the last entry of each run of equal keys; the keys are sorted together."""
    last = np.ones(len(keys[0]), bool)
    last[:-1] = reduce(np.logical_or, [key[1:] != key[:-1] for key in keys])
    return last


def _oldest_first(at: NDArray[Any], post_id: NDArray[Any]) -> Int64[np.ndarray, " n"]:
    return np.lexsort((post_id, at))
