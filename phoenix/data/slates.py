"""Examples: posts that a viewer was shown together, and what of the viewer's past may be read to predict the rest.

Glossary of shapes:

    n: rows of the log
    r: rows that are asked about
    B: slates
    C: candidates of each slate
    H: history positions, newest last, right-aligned
    T: text tokens of a post
    A: the 19 actions

A slate is a feed request as it might have been: a viewer, a moment, a surface, and rows of the log as candidates. Its
history is what was known at that moment, so a candidate's own outcome, or a later one, is never in it: positions of the
history see each other both ways, and would otherwise tell.

Slates differ in where the past ends:
- `frozen`: at one moment for all. What is then judged is what was learned before, with nothing of the span itself.
- `online`: at the impression, as in service; a candidate a slate.
- `in_runs`: at the first impression of a run of the viewer's rows, where training cuts it anew each time.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from phoenix.data.impressions import Log
from phoenix.data.point_in_time import Totals
from phoenix.features.inputs import CandidateInputs, History
from thunder_ingest.events import ACTION_INDEX, ACTIONS, ActionName

NO_ROW: Final = -1
"""Fills slates with fewer candidates than others."""


class Slates(NamedTuple):
    """Feed requests as they might have been."""

    viewer_id: Int64[np.ndarray, " B"]
    asked_at: Int64[np.ndarray, " B"]
    past_start: Int64[np.ndarray, " B"]  # the viewer's first row of the log
    past_end: Int64[np.ndarray, " B"]  # and the first that is not before `asked_at`
    surface: UInt8[np.ndarray, " B"]
    rows: Int64[np.ndarray, "B C"]  # of the log, NO_ROW where there is no candidate

    def take(self, index: Any) -> "Slates":
        """Some of the slates: an index, slice or mask along B."""
        return Slates(*(column[index] for column in self))

    @property
    def mask(self) -> Bool[np.ndarray, "B C"]:
        """Where there is a candidate."""
        return np.asarray(self.rows != NO_ROW)


def rows_between(log: Log, since_ms: int, until_ms: int) -> Int64[np.ndarray, " r"]:
    """The rows whose impression lies in [since, until)."""
    return np.flatnonzero((log.at >= since_ms) & (log.at < until_ms))


def frozen(log: Log, rows: Int64[np.ndarray, " r"], asked_at_ms: int, size: int) -> Slates:
    """Slates of up to `size` rows, all asked for at one moment; of a viewer's rows, those of one surface go together.

    Raises:
        ValueError: where a row is from before that moment.

    """
    if len(rows) and log.at[rows].min() < asked_at_ms:
        raise ValueError("a slate cannot be asked for after its candidates were shown")
    return _slates(log, rows, np.full(len(rows), asked_at_ms), size)


def online(log: Log, rows: Int64[np.ndarray, " r"]) -> Slates:
    """A slate for each row, asked for when it was shown; in the order of the rows."""
    return _slates(log, rows, log.at[rows], size=1)


def in_runs(log: Log, rows: Int64[np.ndarray, " r"], size: int, span_ms: int, rng: np.random.Generator) -> Slates:
    """Each viewer's rows cut into runs of `size`, each asked for when it begins; where cuts lie is a matter of chance.

    Args:
        log: what the rows are of.
        rows: ascending.
        size: rows of a run at most.
        span_ms: no run lasts longer, so that what its last rows are asked with is fresh.
        rng: decides on the cuts.

    """
    viewer, at = log.viewer_id[rows], log.at[rows]
    first = np.flatnonzero(_changes(viewer))
    of_viewer = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))
    ordinal = np.arange(len(rows)) - first[of_viewer] + rng.integers(0, size, len(first))[of_viewer]
    span = (at + rng.integers(0, span_ms, len(first))[of_viewer]) // span_ms
    begins = np.flatnonzero(_changes(viewer, span) | (ordinal % size == 0))
    asked_at = np.repeat(at[begins], np.diff(begins, append=len(rows)))
    return _slates(log, rows, asked_at, size)


def history_of(log: Log, slates: Slates, length: int, tokens: int) -> History:
    """The newest `length` rows of each slate's past, with the first `tokens` tokens of each text."""
    index = slates.past_end[:, np.newaxis] + np.arange(-length, 0)
    inside = index >= slates.past_start[:, np.newaxis]
    index = np.where(inside, index, 0)
    mask = inside & (log.known_at[index] < slates.asked_at[:, np.newaxis])
    post = log.post[index]
    kept = mask[..., np.newaxis]
    return History(
        user_id=slates.viewer_id,
        post_id=log.posts.post_id[post] * mask,
        author_id=log.posts.author_id[post] * mask,
        tokens=log.posts.tokens[post, :tokens] * kept,
        actions=log.actions[index] & kept,
        dwell_ms=log.dwell_ms[index] * mask,
        age_ms=((slates.asked_at[:, np.newaxis] - log.at[index]) * mask).astype(np.float32),
        surface=log.surface[index] * mask,
        mask=mask,
    )


def candidates_of(log: Log, totals: Totals, slates: Slates, tokens: int) -> CandidateInputs:
    """The posts of each slate as they stood when it was asked for, with the first `tokens` tokens of each text."""
    mask = slates.mask
    post = log.post[slates.rows]
    posts = log.posts
    return CandidateInputs(
        post_id=posts.post_id[post] * mask,
        author_id=posts.author_id[post] * mask,
        tokens=posts.tokens[post, :tokens] * mask[..., np.newaxis],
        video_ms=posts.video_ms[post] * mask,
        photos=posts.photos[post] * mask,
        age_ms=np.maximum(slates.asked_at[:, np.newaxis] - posts.created_at[post], 0) * mask,
        totals=totals.at(post, slates.asked_at[:, np.newaxis]) * mask[..., np.newaxis],
        surface=slates.surface,
        mask=mask,
    )


def labels_of(
    log: Log, slates: Slates, labelled_since: Mapping[ActionName, int]
) -> tuple[Bool[np.ndarray, "B C A"], Bool[np.ndarray, "B C A"]]:
    """Which actions followed, and of which it is known whether they did.

    Args:
        log: what the slates are of.
        slates: whose candidates.
        labelled_since: the time, epoch ms, from which on the log records an action; one not named was always recorded.

    """
    since = np.zeros(len(ACTIONS), np.int64)
    for action, at in labelled_since.items():
        since[ACTION_INDEX[action]] = at
    known = slates.mask[..., np.newaxis] & (log.at[slates.rows][..., np.newaxis] >= since)
    return log.actions[slates.rows] & known, known


def _slates(log: Log, rows: Int64[np.ndarray, " r"], asked_at: Int64[np.ndarray, " r"], size: int) -> Slates:
    """Rows of one viewer, moment and surface together, `size` at most, in order of first rows."""
    viewer, surface = log.viewer_id[rows], log.surface[rows]
    order = np.lexsort((rows, surface, asked_at, viewer))
    rows, asked_at, viewer, surface = rows[order], asked_at[order], viewer[order], surface[order]
    group = np.flatnonzero(_changes(viewer, asked_at, surface))
    ordinal = np.arange(len(rows)) - np.repeat(group, np.diff(group, append=len(rows)))
    begins = ordinal % size == 0
    first = np.flatnonzero(begins)
    filled = np.full((len(first), size), NO_ROW)
    filled[np.cumsum(begins) - 1, ordinal % size] = rows
    past_start = np.searchsorted(log.viewer_id, viewer[first])
    return Slates(
        viewer_id=viewer[first],
        asked_at=asked_at[first],
        past_start=past_start,
        past_end=past_start + _earlier(log, viewer[first], asked_at[first], past_start),
        surface=surface[first],
        rows=filled,
    )


def _earlier(
    log: Log, viewer: Int64[np.ndarray, " B"], at: Int64[np.ndarray, " B"], start: Int64[np.ndarray, " B"]
) -> Int64[np.ndarray, " B"]:
    """How many rows of the viewer come before a moment: a binary search in all of them at once."""
    low, high = start, np.searchsorted(log.viewer_id, viewer, "right")
    while (open_ := low < high).any():
        middle = (low + high) // 2
        before = open_ & (log.at[np.minimum(middle, len(log.at) - 1)] < at)
        low, high = np.where(before, middle + 1, low), np.where(open_ & ~before, middle, high)
    return np.asarray(low - start)


def _changes(*columns: np.ndarray[Any, Any]) -> Bool[np.ndarray, " r"]:
    """Where one of these columns is another than in the row before; true for the first."""
    changes = np.ones(len(columns[0]), bool)
    changes[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return changes
