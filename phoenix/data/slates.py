"""Slates: reconstructed feed requests, with rows of the log as candidates and the viewer's earlier events as history.

Glossary of shapes (the letters of `phoenix.features.inputs`, and):

    r: selected rows of the log

A slate has a viewer, the time of the request, a surface and candidates. Its history is what a service would have had at
that time: the positions of the viewer's events before it. The outcome of a candidate, or a later event, is therefore
never in the history. This prevents label leakage, because attention in the history is bidirectional.

The functions differ in the time of the request:
- `frozen`: one time for all slates, for static evaluation.
- `online`: the time of each impression, as in service, with one candidate in a slate (prequential evaluation).
- `in_runs`: the first impression of a run of the viewer's rows, for training. Runs are cut at random places. A
  candidate has its age and counts as of its own impression, since a service would have asked again.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from phoenix.data.groups import first_not_less, group_starts
from phoenix.data.impressions import Log
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.posts import Posts
from phoenix.features.build import ShownPosts, candidate_inputs, history_inputs
from phoenix.features.inputs import CandidateInputs, History
from thunder_ingest.events import ACTION_INDEX, ACTIONS, ActionName
from thunder_ingest.users.history import POSITION, positions_of_many

_RECORDED: Final[Mapping[ActionName, int]] = {}
"""Every action is recorded in the whole log."""
_EVENTS_OF_A_POSITION: Final = 64
"""Events read for each position of a history, the newest ones. A position has a few, so the rest is too old; a viewer
with a hundred thousand events must not have all of them read for each slate."""
NO_ROW: Final = -1
"""Padding of slates that have fewer candidates than others."""


class Slates(NamedTuple):
    """Reconstructed feed requests."""

    viewer_id: Int64[np.ndarray, " B"]
    requested_at: Int64[np.ndarray, " B"]  # epoch ms
    past_start: Int64[np.ndarray, " B"]  # index of the viewer's first event in the log
    past_end: Int64[np.ndarray, " B"]  # index of the viewer's first event at or after `requested_at`
    surface: Int32[np.ndarray, " B"]  # index into the log's surfaces
    rows: Int64[np.ndarray, "B C"]  # indices into the log; NO_ROW: padding
    known_at: Int64[np.ndarray, "B C"]  # epoch ms as of which a candidate has its age and counts

    def take(self, index: Any) -> "Slates":
        """Select slates by an index, slice or mask along B."""
        return Slates(*(column[index] for column in self))

    @property
    def mask(self) -> Bool[np.ndarray, "B C"]:
        """True for candidates, False for padding."""
        return np.asarray(self.rows != NO_ROW)


def rows_between(log: Log, since_ms: int, until_ms: int) -> Int64[np.ndarray, " r"]:
    """Return the rows with an impression in [since, until), epoch ms."""
    return np.flatnonzero((log.at >= since_ms) & (log.at < until_ms))


def frozen(log: Log, rows: Int64[np.ndarray, " r"], requested_at_ms: int, size: int) -> Slates:
    """Return slates of up to `size` rows of one viewer and surface, all requested at one time.

    Raises:
        ValueError: a row is older than the request.

    """
    if len(rows) and log.at[rows].min() < requested_at_ms:
        raise ValueError("a candidate was shown before the slate is requested")
    return _slates(log, rows, np.full(len(rows), requested_at_ms), size)


def without_candidates(log: Log, viewer_id: Int64[np.ndarray, " B"], requested_at_ms: int) -> Slates:
    """Return a slate without rows for each viewer, requested at one time."""
    requested_at = np.full(len(viewer_id), requested_at_ms)
    past = _past(log, viewer_id, requested_at)
    none = np.full((len(viewer_id), 1), NO_ROW)
    return Slates(viewer_id, requested_at, *past, np.zeros(len(viewer_id), np.int32), none, requested_at[:, np.newaxis])


def online(log: Log, rows: Int64[np.ndarray, " r"]) -> Slates:
    """Return a slate for each row, requested at the time of its impression; in the order of the rows."""
    return _slates(log, rows, log.at[rows], 1)


def in_runs(log: Log, rows: Int64[np.ndarray, " r"], size: int, span_ms: int, rng: np.random.Generator) -> Slates:
    """Cut each viewer's rows at random places into runs, and return a slate for each run, requested at its start.

    Args:
        log: source of the rows.
        rows: indices into the log, ascending.
        size: maximum number of rows in a run.
        span_ms: maximum duration of a run, so that its last rows have a fresh history.
        rng: source of the random places.

    """
    viewer, at = log.viewer_id[rows], log.at[rows]
    first = np.flatnonzero(group_starts(viewer))
    of_viewer = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))
    ordinal = np.arange(len(rows)) - first[of_viewer] + rng.integers(0, size, len(first))[of_viewer]
    span = (at + rng.integers(0, span_ms, len(first))[of_viewer]) // span_ms
    begins = np.flatnonzero(group_starts(viewer, span) | (ordinal % size == 0))
    requested_at = np.repeat(at[begins], np.diff(begins, append=len(rows)))
    return _slates(log, rows, requested_at, size, as_shown=True)


def history_of(
    log: Log, slates: Slates, length: int, tokens: int, labelled_since: Mapping[ActionName, int] = _RECORDED
) -> History:
    """Return the newest `length` positions before each request, with the first `tokens` tokens of each text.

    An action before the start of its recording in `labelled_since` is unknown (see `labels_of`).
    """
    events = np.minimum(slates.past_end - slates.past_start, _EVENTS_OF_A_POSITION * length)
    slate = np.repeat(np.arange(len(events)), events)
    index = np.arange(len(slate)) + np.repeat(slates.past_end - np.cumsum(events), events)
    found, whose = positions_of_many(log.entries(index), slate, length)
    positions = np.zeros((len(events), length), POSITION)
    mask = np.zeros(positions.shape, np.bool_)
    place = whose, length + np.arange(len(whose)) - np.searchsorted(whose, whose, "right")
    positions[place], mask[place] = found, True
    post = np.searchsorted(log.posts.post_id, found["post_id"])
    content = log.posts.as_of(post, slates.requested_at[whose])
    texts = np.zeros((*positions.shape, tokens), np.uint32)
    texts[place] = content.tokens[:, :tokens] * content.is_stored[:, np.newaxis]
    video_ms = np.zeros(positions.shape, np.int32)
    video_ms[place] = content.video_ms * content.is_stored
    recorded = positions["at"][..., np.newaxis] >= _since(labelled_since)
    return history_inputs(slates.viewer_id, slates.requested_at, positions, mask, texts, video_ms, recorded)


def candidates_of(log: Log, totals: PointInTimeCounts, slates: Slates, tokens: int) -> CandidateInputs:
    """Return the candidates as of `known_at`, with the first `tokens` tokens of each text."""
    shown = shown_posts(log.posts, totals, log.post[slates.rows], slates.known_at)
    surface, asked_at = log.surface_codes[slates.surface], log.at[slates.rows]
    return candidate_inputs(shown, slates.known_at, asked_at, surface, slates.mask, tokens)


def shown_posts(
    posts: Posts, totals: PointInTimeCounts, post: Int64[np.ndarray, "B C"], moment_ms: Int64[np.ndarray, "B C"]
) -> ShownPosts:
    """Return posts, given by index, as of moments in epoch ms; a repost with id, content and counts of its original.

    A repost keeps its own content and counts while a service does not have the original.
    """
    original = posts.original(post, moment_ms)
    is_repost = original != post
    has_source = is_repost & posts.is_stored(original, moment_ms)
    read = np.where(has_source, original, post)
    content = posts.as_of(read, moment_ms)
    is_direct = posts.source_id[post] == posts.post_id[original]
    source_author = np.where(has_source, posts.author_id[original], posts.source_author_id[post] * is_direct)
    return ShownPosts(
        post_id=posts.post_id[original],
        author_id=np.where(is_repost & (source_author != 0), source_author, posts.author_id[post]),
        created_at=posts.created_at[post],
        tokens=content.tokens,
        video_ms=content.video_ms,
        photos=content.photos,
        totals=totals.at(read, moment_ms),
    )


def labels_of(
    log: Log, slates: Slates, labelled_since: Mapping[ActionName, int]
) -> tuple[Bool[np.ndarray, "B C A"], Bool[np.ndarray, "B C A"]]:
    """Return the labels of all candidates, and a mask of the known labels. Unknown labels are False.

    Args:
        log: source of the slates.
        slates: slates whose candidates are labelled.
        labelled_since: start of the recording of each action, epoch ms; other actions are recorded in the whole log.

    """
    known = slates.mask[..., np.newaxis] & (log.at[slates.rows][..., np.newaxis] >= _since(labelled_since))
    return log.actions[slates.rows] & known, known


def _since(labelled_since: Mapping[ActionName, int]) -> Int64[np.ndarray, " A"]:
    """Return the start of the recording of each action, 0 for one that is recorded in the whole log."""
    since = np.zeros(len(ACTIONS), np.int64)
    for action, at in labelled_since.items():
        since[ACTION_INDEX[action]] = at
    return since


def _slates(
    log: Log, rows: Int64[np.ndarray, " r"], requested_at: Int64[np.ndarray, " r"], size: int, *, as_shown: bool = False
) -> Slates:
    """Group rows by viewer, time of the request and surface, and split groups into slates of at most `size` rows.

    With `as_shown`, a candidate has its age and counts as of its own impression, which may come long after the request.
    """
    viewer, surface = log.viewer_id[rows], log.surface[rows]
    order = np.lexsort((rows, surface, requested_at, viewer))
    rows, requested_at, viewer, surface = rows[order], requested_at[order], viewer[order], surface[order]
    group = np.flatnonzero(group_starts(viewer, requested_at, surface))
    ordinal = np.arange(len(rows)) - np.repeat(group, np.diff(group, append=len(rows)))
    begins = ordinal % size == 0
    first = np.flatnonzero(begins)
    filled = np.full((len(first), size), NO_ROW)
    filled[np.cumsum(begins) - 1, ordinal % size] = rows
    known_at = np.repeat(requested_at[first, np.newaxis], size, axis=1)
    if as_shown:
        known_at = np.where(filled == NO_ROW, known_at, log.at[filled])
    return Slates(
        viewer[first],
        requested_at[first],
        *_past(log, viewer[first], requested_at[first]),
        surface=surface[first],
        rows=filled,
        known_at=known_at,
    )


def _past(
    log: Log, viewer: Int64[np.ndarray, " B"], until_ms: Int64[np.ndarray, " B"]
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """Return each viewer's events before a time, as the indices of the first one and of the one after the last."""
    viewers, at = (np.ascontiguousarray(log.events[name]) for name in ("viewer_id", "at"))
    start = np.searchsorted(viewers, viewer)
    return start, first_not_less(at, start, np.searchsorted(viewers, viewer, "right"), until_ms)
