"""Features of the baselines: point-in-time rates of each action for viewers, posts, authors and words.

Glossary of shapes:

    r: rows of the log
    s: selected rows
    f: features
    e: entities of one kind, such as viewers

The counters of a row contain neither its own outcome nor a later one. Training rows get the counters of the last of
FREEZES moments before them, evaluated rows those of `since_ms`. The counters then have the same distribution in
training and in evaluation.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from phoenix.data.impressions import Log
from phoenix.evaluation.split import Rows, Split
from thunder_ingest.events import ActionName

FREEZES: Final = 4
"""Number of moments in the training span at which counters are computed. With fewer, training rows have staler counters
than evaluated rows; with more, fresher ones."""
PRIOR_POSITIVES: Final = 2
MOST_PRIOR: Final = 50
"""Prior strength of the empirical-Bayes smoothing, in impressions: as many as have PRIOR_POSITIVES at the mean rate, at
most MOST_PRIOR. Frequent actions therefore have a weak prior, rare ones a strong one."""

Counts = Float32[np.ndarray, "s f"]
Keys = dict[str, Int64[np.ndarray, " r"]]
"""The entity of each row, 0 … e−1, by kind of entity."""


def entities(log: Log) -> Keys:
    """Return the entity of each row of the log, for each kind of entity.

    A post's first word is used as its topic, because the first word is often a hashtag or a category.
    """
    author = np.unique(log.posts.author_id, return_inverse=True)[1][log.post]
    viewer = np.unique(log.viewer_id, return_inverse=True)[1]
    word = np.unique(log.posts.tokens[:, 0], return_inverse=True)[1][log.post]
    viewer_word = np.unique(viewer * (word.max(initial=0) + 1) + word, return_inverse=True)[1]
    return {"viewer": viewer, "post": log.post, "author": author, "word": word, "viewer and word": viewer_word}


def frozen_counts(split: Split, keys: Keys, actions: Sequence[ActionName]) -> tuple[Counts, Counts]:
    """Return the features of `split.trained` and of `split.evaluated`.

    For each action and kind of entity: the log-odds of the smoothed rate, NaN without any labelled row, and the
    logarithm of 1 + the entity's number of rows.
    """
    edges = np.linspace(split.trained_since_ms, split.since_ms, FREEZES + 1)[:-1]
    piece = np.searchsorted(edges, split.log.at[split.trained], "right") - 1
    trained = np.empty((len(split.trained), 2 * len(keys) * len(actions)), np.float32)
    for number, moment in enumerate(edges):
        inside = piece == number
        trained[inside] = _as_of(split, keys, actions, split.trained[inside], float(moment))
    return trained, _as_of(split, keys, actions, split.evaluated, split.since_ms)


def smoothed_rates(
    key: Int64[np.ndarray, " r"], split: Split, action: ActionName, rows: Rows
) -> Float64[np.ndarray, " e"]:
    """Return the empirical-Bayes rate of an action for each entity, from labelled rows; NaN without labelled rows."""
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
