"""The models' outputs on a split: predictions for the evaluated rows, and vectors for retrieval.

Glossary of shapes:

    j: evaluated rows
    u: viewers
    p: posts of the log
    E: width of vectors

Every request is made at `since_ms`, so histories and counts contain nothing from the evaluated span.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.slates import Slates, candidates_of, frozen, history_of
from phoenix.evaluation.split import Split
from phoenix.features.inputs import PostInputs
from phoenix.models.configs import ModelConfig
from phoenix.serving.engine import Phoenix

_VIEWERS: Final = 64
_CANDIDATES: Final = 8
"""Candidates of a request. A viewer has few impressions in a few days, so larger slates would be mostly padding."""


def evaluation_config(config: ModelConfig) -> ModelConfig:
    """Return the configuration with batch sizes for evaluation; the models are the same."""
    return replace(config, batch_buckets=(_VIEWERS,), candidate_buckets=(_CANDIDATES,), post_buckets=(512,))


def predictions(phoenix: Phoenix, split: Split) -> Float32[np.ndarray, "j 19"]:
    """Return 18 probabilities and the dwell time in ms for each row of `split.evaluated`."""
    log, config = split.log, phoenix.config
    predicted = np.zeros((len(split.evaluated), 19), np.float32)
    totals = PointInTimeCounts(log, split.labelled_since)
    slates = frozen(log, split.evaluated, split.since_ms, _CANDIDATES)
    for start in range(0, len(slates.viewer_id), _VIEWERS):
        some = slates.take(slice(start, start + _VIEWERS))
        history = history_of(log, some, config.history, config.tokens, split.labelled_since)
        scores = phoenix.score(history, candidates_of(log, totals, some, config.tokens))
        predicted[np.searchsorted(split.evaluated, some.rows[some.mask])] = scores[some.mask]
    return predicted


def viewer_vectors(phoenix: Phoenix, split: Split, viewer_id: Int64[np.ndarray, " u"]) -> Float32[np.ndarray, "u E"]:
    """Return the user tower's vectors of viewers with evaluated rows."""
    log, config = split.log, phoenix.config
    slates = _of_viewers(frozen(log, split.evaluated, split.since_ms, _CANDIDATES), viewer_id)
    vectors = [np.empty((0, config.embed_dim), np.float32)]
    for start in range(0, len(viewer_id), _VIEWERS):
        some = slates.take(slice(start, start + _VIEWERS))
        history = history_of(log, some, config.history, config.tokens, split.labelled_since)
        vectors.append(phoenix.embed_users(history))
    return np.concatenate(vectors)


def post_vectors(phoenix: Phoenix, split: Split) -> Float32[np.ndarray, "p E"]:
    """Return the candidate tower's vectors of all posts of the log."""
    posts = split.log.posts
    tokens = posts.tokens[:, : phoenix.config.tokens]
    return phoenix.embed_posts(PostInputs(posts.author_id, tokens, posts.video_ms, posts.photos))


def _of_viewers(slates: Slates, viewer_id: Int64[np.ndarray, " u"]) -> Slates:
    """Select one slate of each viewer."""
    viewers, first = np.unique(slates.viewer_id, return_index=True)
    return slates.take(first[np.searchsorted(viewers, viewer_id)])
