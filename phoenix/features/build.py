"""The builder of the models' inputs: service and training call it with raw columns as of a request.

Shapes: see `phoenix.features.inputs`. Service reads the columns from Redis and from the post store. Training reads the
same columns from a log, as they were at the time (`phoenix.data.slates`).
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped, UInt8, UInt32

from phoenix.features.actions import ACTION_COUNT
from phoenix.features.inputs import CandidateInputs, History

_BITS: Final = np.arange(ACTION_COUNT, dtype=np.uint32)


class ShownPosts(NamedTuple):
    """Candidates as their viewers read them: a repost has id, author, content and counts of its original."""

    post_id: Int64[np.ndarray, "B C"]
    author_id: Int64[np.ndarray, "B C"]
    created_at: Int64[np.ndarray, "B C"]  # epoch ms; a repost has its own
    tokens: UInt32[np.ndarray, "B C t"]
    video_ms: Int32[np.ndarray, "B C"]
    photos: Int32[np.ndarray, "B C"]
    totals: Int32[np.ndarray, "B C A+1"]


def history_inputs(
    user_id: Int64[np.ndarray, " B"],
    now_ms: Int64[np.ndarray, " B"],
    positions: Shaped[np.ndarray, "B H"],
    mask: Bool[np.ndarray, "B H"],
    tokens: UInt32[np.ndarray, "B H T"],
    video_ms: Int32[np.ndarray, "B H"],
    recorded: Bool[np.ndarray, "B H A"] | None = None,
) -> History:
    """The histories of viewers.

    Args:
        user_id: the viewers.
        now_ms: time of each request, epoch ms.
        positions: records of `thunder_ingest.users.history.POSITION`, right-aligned, newest last.
        mask: False for padding.
        tokens: texts of the positions' posts as of the request; 0 for a post that the post store does not have.
        video_ms: lengths of their videos, likewise.
        recorded: False for an unknown action; by default all are known, as in service.

    """
    shown = {name: positions[name] * mask for name in positions.dtype.names or ()}
    age_ms = np.maximum(now_ms[:, np.newaxis] - positions["at"], 0) * mask
    known = np.ones((*mask.shape, ACTION_COUNT), np.bool_) if recorded is None else recorded | ~mask[..., np.newaxis]
    return History(
        user_id=user_id,
        post_id=shown["post_id"],
        author_id=shown["author_id"],
        tokens=_masked(tokens, mask),
        actions=(shown["actions"][..., np.newaxis] >> _BITS & 1).astype(np.bool_),
        recorded=known,
        dwell_ms=shown["dwell_ms"].astype(np.float32),
        age_ms=age_ms.astype(np.float32),
        surface=shown["surface"],
        video_ms=_masked(video_ms, mask),
        mask=mask,
    )


def candidate_inputs(
    posts: ShownPosts,
    now_ms: Int64[np.ndarray, "B c"],
    asked_at: Int64[np.ndarray, "B c"],
    surface: UInt8[np.ndarray, " B"],
    mask: Bool[np.ndarray, "B C"],
    tokens: int,
) -> CandidateInputs:
    """The candidates of viewers.

    Args:
        posts: the candidates.
        now_ms: time as of which the age counts, epoch ms.
        asked_at: time of the request, epoch ms; another one only in an evaluation that freezes ages and counts.
        surface: `surface_code` of the surface that will show the feed.
        mask: False for padding.
        tokens: tokens of a text that the model reads.

    """
    return CandidateInputs(
        post_id=_masked(posts.post_id, mask),
        author_id=_masked(posts.author_id, mask),
        tokens=_masked(posts.tokens[..., :tokens], mask),
        video_ms=_masked(posts.video_ms, mask),
        photos=_masked(posts.photos, mask),
        age_ms=_masked(np.maximum(now_ms - posts.created_at, 0), mask),
        totals=_masked(posts.totals, mask),
        asked_at=_masked(np.broadcast_to(asked_at, mask.shape), mask),
        surface=surface,
        mask=mask,
    )


def _masked(column: Any, mask: Bool[np.ndarray, "B n"]) -> Any:
    """The column with zeros where the mask is False."""
    return column * mask.reshape(*mask.shape, *(1,) * (column.ndim - mask.ndim))
