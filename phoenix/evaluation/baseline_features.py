"""Counters: how often each action followed for a viewer, a post, an author, a word; as they stood at a moment.

Glossary of shapes:

    n: rows of the log
    t: rows that are asked about
    f: features
    e: entities of one kind, such as viewers

A row's own outcome, or a later one, is never in its counters. Rows to learn from get those of the last of FREEZES
moments before them, rows that are judged those of `since_ms`: what a model learns about counters is then true of those
that it is asked with.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from phoenix.data.impressions import Log
from phoenix.evaluation.split import Rows, Split
from thunder_ingest.events import ActionName

FREEZES: Final = 4
"""How often counters are renewed in the span that is trained on: too seldom and the rows to learn from know less than
those that are judged, often and they know more."""
PRIOR_POSITIVES: Final = 2
MOST_PRIOR: Final = 50
"""A rate is drawn to the mean as if by so many impressions of the mean rate as bring PRIOR_POSITIVES, at most this
many: few for what happens often, more for what is rare."""

Counts = Float32[np.ndarray, "t f"]
Keys = dict[str, Int64[np.ndarray, " n"]]
"""By the kind of entity: which one each row is about, 0 … e−1."""


def entities(log: Log) -> Keys:
    """What is counted, and which entity of each kind a row of the log is about.

    A post's first word stands for its topic, since it is the one that a hashtag or a category is likely to be.
    """
    author = np.unique(log.posts.author_id, return_inverse=True)[1][log.post]
    viewer = np.unique(log.viewer_id, return_inverse=True)[1]
    word = np.unique(log.posts.tokens[:, 0], return_inverse=True)[1][log.post]
    viewer_word = np.unique(viewer * (word.max(initial=0) + 1) + word, return_inverse=True)[1]
    return {"viewer": viewer, "post": log.post, "author": author, "word": word, "viewer and word": viewer_word}


def frozen_counts(split: Split, keys: Keys, actions: Sequence[ActionName]) -> tuple[Counts, Counts]:
    """The features of `split.trained` and of `split.judged`.

    For each action and kind of entity they are the log-odds of its rate, NaN where nothing was known yet, and the
    logarithm of how often it was seen.
    """
    edges = np.linspace(split.trained_since_ms, split.since_ms, FREEZES + 1)[:-1]
    piece = np.searchsorted(edges, split.log.at[split.trained], "right") - 1
    trained = np.empty((len(split.trained), 2 * len(keys) * len(actions)), np.float32)
    for number, moment in enumerate(edges):
        inside = piece == number
        trained[inside] = _as_of(split, keys, actions, split.trained[inside], float(moment))
    return trained, _as_of(split, keys, actions, split.judged, split.since_ms)


def smoothed_rates(
    key: Int64[np.ndarray, " n"], split: Split, action: ActionName, rows: Rows
) -> Float64[np.ndarray, " e"]:
    """The rate of an action for each entity, from labelled rows, drawn to their mean; NaN where there are none."""
    labels = split.labels(action, rows)
    mean = labels.mean() if len(rows) else np.nan
    prior = min(PRIOR_POSITIVES / mean, MOST_PRIOR) if mean > 0 else MOST_PRIOR
    size = int(key.max(initial=-1)) + 1
    seen, done = (np.bincount(key[rows], weights, size) for weights in (None, labels))
    return np.clip((done + prior * mean) / (seen + prior), 1e-6, 1 - 1e-6)


def _as_of(split: Split, keys: Keys, actions: Sequence[ActionName], rows: Rows, moment: float) -> Counts:
    known = np.flatnonzero(split.log.complete_at < moment)
    columns = []
    for action in actions:
        labelled = split.labelled(action, known)
        for key in keys.values():
            rates = smoothed_rates(key, split, action, labelled)
            columns += [
                np.log(rates / (1 - rates))[key[rows]],
                np.log1p(np.bincount(key[labelled], minlength=len(rates)))[key[rows]],
            ]
    return np.stack(columns, axis=1).astype(np.float32)
