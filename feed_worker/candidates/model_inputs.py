"""The models' inputs in serving: histories and candidates of a batch, padded to one shape.

Glossary of shapes:

    B: queries of the batch
    H: history positions that the model reads, newest last, right-aligned
    C: the largest number of candidates of a query
    T: text tokens of a post that the model reads
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from phoenix.features.build import ShownPosts, candidate_inputs, history_inputs
from phoenix.features.inputs import CandidateInputs, History
from phoenix.models.configs import ModelConfig
from thunder_ingest.events import ACTIONS, surface_code
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.history import POSITION


def history_of(queries: Sequence[Query], store: PostStore, config: ModelConfig) -> History:
    """The newest history positions of each viewer, with the words and videos of posts that are still stored.

    The actions of a stand-in count as unknown: they tell nothing about the viewer's rates.
    """
    positions, mask = _padded(queries, config.history)
    is_own = np.array([not query.is_stand_in for query in queries])[:, np.newaxis, np.newaxis]
    with store.lock:
        rows = store.rows_of(positions["post_id"])
        is_stored = rows >= 0
        texts, lengths = store.tokens(rows[is_stored]), store.video_ms(rows[is_stored])
    tokens, video_ms = np.zeros((*rows.shape, config.tokens), np.uint32), np.zeros(rows.shape, np.int32)
    tokens[is_stored], video_ms[is_stored] = texts[:, : config.tokens], lengths
    return history_inputs(
        np.array([query.user_id for query in queries], np.int64),
        np.array([query.now_ms for query in queries], np.int64),
        positions,
        mask,
        tokens,
        video_ms,
        np.broadcast_to(is_own, (*mask.shape, len(ACTIONS))),
    )


def candidates_of(queries: Sequence[Query], candidates: Sequence[Candidates], config: ModelConfig) -> CandidateInputs:
    """The first candidates of each query, up to `max_candidates` times `quality`; a repost is scored as its source."""
    counts = [
        min(len(each), query.scaled_limit(query.parameters.max_candidates))
        for query, each in zip(queries, candidates, strict=True)
    ]
    shown = ShownPosts(
        post_id=_stacked([each.original_id for each in candidates], counts),
        author_id=_stacked([each.original_author_id for each in candidates], counts),
        created_at=_stacked([each.posts.created_at for each in candidates], counts),
        tokens=_stacked([each.posts.tokens[:, : config.tokens] for each in candidates], counts),
        video_ms=_stacked([each.posts.video_ms for each in candidates], counts),
        photos=_stacked([each.posts.photos for each in candidates], counts),
        totals=_stacked([each.posts.totals for each in candidates], counts),
    )
    now_ms = np.array([[query.now_ms] for query in queries], np.int64)
    return candidate_inputs(
        shown,
        now_ms,
        now_ms,
        np.array([surface_code(query.request.surface) for query in queries], np.uint8),
        _stacked([np.ones(len(each), np.bool_) for each in candidates], counts),
        config.tokens,
    )


def _padded(queries: Sequence[Query], length: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """POSITION records [B, H] and their mask [B, H], False for padding."""
    positions = np.zeros((len(queries), length), POSITION)
    mask = np.zeros((len(queries), length), np.bool_)
    for row, query in enumerate(queries):
        newest = query.viewer.positions[-length:]
        if len(newest):
            positions[row, -len(newest) :] = newest
            mask[row, -len(newest) :] = True
    return positions, mask


def _stacked(columns: Sequence[NDArray[Any]], counts: Sequence[int]) -> NDArray[Any]:
    """The first `counts` rows of each column [n, …] as one array [B, C, …], padded with zeros."""
    stacked = np.zeros((len(columns), max(counts), *columns[0].shape[1:]), columns[0].dtype)
    for row, (column, count) in enumerate(zip(columns, counts, strict=True)):
        stacked[row, :count] = column[:count]
    return stacked
