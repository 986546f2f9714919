"""Ranking baselines that a model must beat: rates, logistic regression, gradient-boosted trees and their blend.

Glossary of shapes:

    r: rows of the log
    s: training rows
    j: evaluated rows
    f: features
    p: posts

Each baseline takes seconds on one core and uses nothing from `since_ms` on. The hyperparameters are tuned, because a
comparison with a weak baseline proves nothing. Most were tuned on the last day of the training span. The smoothing was
tuned on the evaluated days, which can only favour the baselines.
"""

import warnings
from collections.abc import Sequence
from typing import Final

import lightgbm
import numpy as np
from jaxtyping import Float64
from scipy import sparse
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from infra.ports.clock import HOUR_MS
from phoenix.data.impressions import Log
from phoenix.evaluation.baseline_features import Counts, Keys, entities, frozen_counts, smoothed_rates
from phoenix.evaluation.split import Rows, Split
from phoenix.features.inputs import LOG_BUCKETS, log_bucket
from thunder_ingest.events import ActionName

VIDEO_UNIT_MS: Final = 500
IDS_STRENGTH: Final = 0.3
"""Inverse L2 regularisation of the regression on ids: weak, because an id has many earlier impressions."""
COUNTS_STRENGTH: Final = 0.03
"""Inverse L2 regularisation of the regression on ids and counts: strong, because counts and ids are redundant."""
ITERATIONS: Final = 300
TREES: Final = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "num_threads": 1,
    "verbose": -1,
    "seed": 1,
    "deterministic": True,
}
ROUNDS: Final = 200

Probabilities = Float64[np.ndarray, " j"]


class RankingBaselines:
    """All ranking baselines of one split.

    Args:
        split: training rows and evaluated rows.
        actions: predicted actions. The counts of all of them are features of each prediction.

    """

    def __init__(self, split: Split, actions: Sequence[ActionName]) -> None:
        self._split = split
        self._keys = entities(split.log)
        self._ids = ids(split.log, self._keys)
        self._counts = frozen_counts(split, self._keys, actions)
        self._context = _context(split.log, split.trained), _context(split.log, split.evaluated)

    def predict(self, action: ActionName) -> dict[str, Probabilities]:
        """Return the probabilities of an action on the evaluated rows, by name of the baseline."""
        by_counts, trees = self._regression_on_counts(action), self._trees(action)
        return {
            "post_rate": self._rate(action, "post"),
            "viewer_and_post_rates": self._additive(action),
            "regression_on_ids": self._regression_on_ids(action),
            "regression_on_ids_and_counts": by_counts,
            "trees_on_counts": trees,
            "blend": expit((logit(by_counts) + logit(trees)) / 2),
        }

    def _rate(self, action: ActionName, kind: str) -> Probabilities:
        key, split = self._keys[kind], self._split
        rates = smoothed_rates(key, split, action, split.labelled(action, split.past))
        predicted: Probabilities = rates[key[split.evaluated]]
        return predicted

    def _additive(self, action: ActionName) -> Probabilities:
        """Add the effects of viewer and post to the log-odds of the mean rate."""
        split = self._split
        mean = split.labels(action, split.labelled(action, split.past)).mean()
        log_odds = logit(self._rate(action, "viewer")) + logit(self._rate(action, "post")) - logit(mean)
        predicted: Probabilities = expit(log_odds)
        return predicted

    def _regression_on_ids(self, action: ActionName) -> Probabilities:
        rows = self._split.labelled(action, self._split.past)
        model = _regression(IDS_STRENGTH, self._ids[rows], self._split.labels(action, rows))
        return _positive(model, self._ids[self._split.evaluated])

    def _regression_on_counts(self, action: ActionName) -> Probabilities:
        rows, kept = self._trained(action)
        standard = [sparse.csr_array(each) for each in _standardised(*self._counts, kept)]
        inputs = sparse.hstack([self._ids[rows], standard[0]], format="csr")
        model = _regression(COUNTS_STRENGTH, inputs, self._split.labels(action, rows))
        return _positive(model, sparse.hstack([self._ids[self._split.evaluated], standard[1]], format="csr"))

    def _trees(self, action: ActionName) -> Probabilities:
        rows, kept = self._trained(action)
        trained, evaluated = (np.hstack(each) for each in zip(self._counts, self._context, strict=True))
        data = lightgbm.Dataset(trained[kept], self._split.labels(action, rows))
        predicted = lightgbm.train(TREES, data, ROUNDS).predict(evaluated)
        return np.asarray(predicted, np.float64)

    def _trained(self, action: ActionName) -> tuple[Rows, Rows]:
        """Return the labelled training rows, and their indices in all training rows."""
        rows = self._split.labelled(action, self._split.trained)
        return rows, np.searchsorted(self._split.trained, rows)


def ids(log: Log, keys: Keys) -> sparse.csr_array:
    """Return sparse features [r, f]: one-hot viewer, post, author, surface, hour and video length; multi-hot words.

    Rows without a surface have an unknown hour, because imported logs may have inexact times.
    """
    surface, hour, video = _context(log, np.arange(len(log.at))).astype(np.int64).T
    return sparse.hstack(
        [
            *(_one_hot(keys[kind], int(keys[kind].max()) + 1) for kind in ("viewer", "post", "author")),
            _one_hot(surface, int(surface.max()) + 1),
            _one_hot(np.where(surface > 0, hour, 24), 25),
            _one_hot(log_bucket(video, VIDEO_UNIT_MS).astype(np.int64), LOG_BUCKETS),
            _words(log)[log.post],
        ],
        format="csr",
    )


def _words(log: Log) -> sparse.csr_array:
    """Return the words of each post, multi-hot [p, words]."""
    tokens = log.posts.tokens
    words, column = np.unique(tokens, return_inverse=True)
    place, position = np.nonzero(tokens)
    column = column.reshape(tokens.shape)[place, position]
    return sparse.csr_array((np.ones(len(place), np.float32), (place, column)), (len(tokens), len(words)))


def _one_hot(column: Rows, size: int) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(column), np.float32), column, np.arange(len(column) + 1)), (len(column), size))


def _context(log: Log, rows: Rows) -> Counts:
    """Return surface, hour of the day (UTC) and video length in ms."""
    hour = log.at[rows] // HOUR_MS % 24
    return np.stack([log.surface[rows], hour, log.posts.video_ms[log.post[rows]]], axis=1).astype(np.float32)


def _standardised(trained: Counts, evaluated: Counts, kept: Rows) -> tuple[Counts, Counts]:
    """Standardise both by mean and standard deviation of the kept training rows; impute the mean for NaN."""
    trained = trained[kept]
    known = ~np.isnan(trained)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.nansum(trained, axis=0) / count
    spread = np.sqrt(np.nansum((trained - mean) ** 2, axis=0) / count) + 1e-6
    return np.nan_to_num((trained - mean) / spread), np.nan_to_num((evaluated - mean) / spread)


def _regression(strength: float, inputs: sparse.csr_array, labels: Rows) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # later iterations change no figure
        return model.fit(inputs, labels)


def _positive(model: LogisticRegression, inputs: sparse.csr_array) -> Probabilities:
    probabilities: Probabilities = model.predict_proba(inputs)[:, 1].astype(np.float64)
    return probabilities
