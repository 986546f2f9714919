"""The evaluation report of one or several models of one configuration on a split, with baselines.

Glossary of shapes:

    d: draws of viewers (see `phoenix.evaluation.bootstrap`)
    j: evaluated rows

The figures of several models, trained from different seeds, are averaged. Differences are paired: the models' figures
minus a baseline's on the same draws. A difference is significant if its interval does not contain 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Float64
from msgspec import Struct

from phoenix.evaluation import metrics
from phoenix.evaluation.bootstrap import Draws, Estimate
from phoenix.evaluation.predictions import post_vectors, predictions, viewer_vectors
from phoenix.evaluation.ranking_baselines import RankingBaselines
from phoenix.evaluation.retrieval_baselines import Found, RetrievalTask
from phoenix.evaluation.split import Split
from phoenix.serving.engine import Phoenix
from thunder_ingest.events import ACTION_INDEX, ActionName

RETRIEVED: Final = 100
_RETRIEVAL: Final = "retrieval"

Figures = dict[str, Float64[np.ndarray, " d"]]
"""The figure on each draw, by metric."""
Scored = dict[str, Figures]
"""Figures by action; those of retrieval have the key `retrieval`."""
Measured = dict[str, Any]
"""Figures by metric. `interval` has the 95 % intervals, `models` the figures of each model."""


class Scorer(Struct, omit_defaults=True):
    """The figures of one scorer."""

    actions: dict[str, Measured] = {}
    retrieval: Measured = {}


class Report(Struct):
    """The output of `foryou evaluate --json`."""

    protocol: dict[str, Any]
    """Spans in epoch ms, their sizes and rates, seed and number of draws."""
    models: list[str]
    """Versions of the models."""
    actions: dict[str, Measured]
    retrieval: Measured
    baselines: dict[str, Scorer]
    differences: dict[str, Scorer]
    """The models' figures minus those of a baseline, by baseline."""


class Evaluation:
    """Evaluation of models and baselines on one split.

    Args:
        split: training rows and evaluated rows.
        actions: evaluated actions.
        retrieved_for: action that makes a post relevant for retrieval.
        seed: seed of the draws.
        replicates: number of draws.

    Raises:
        ValueError: no viewer has a relevant post.

    """

    def __init__(
        self, split: Split, actions: Sequence[ActionName], *, retrieved_for: ActionName, seed: int, replicates: int
    ) -> None:
        self._split, self._actions = split, actions
        self._task = RetrievalTask(split, retrieved_for)
        self._retrieval_draws = Draws.of(self._task.viewer_id, seed, replicates)
        self._draws = Draws.of(split.log.viewer_id[split.evaluated], seed, replicates)
        self._protocol = _protocol(split, actions) | {
            "retrieved_for": retrieved_for,
            "retrieval_viewers": len(self._task.viewer_id),
            "retrieval_wanted": int(self._task.relevant.sum()),
            "seed": seed,
            "replicates": replicates,
        }

    def report(self, models: Sequence[Phoenix], show: Callable[[str], None], *, baselines: bool) -> Report:
        """Evaluate models of one configuration, and the baselines.

        Args:
            models: one or more models.
            show: receives the name of each part before its evaluation.
            baselines: include the baselines, which takes a minute or two.

        """
        each = []
        for model in models:
            show(model.version)
            each.append(self._of_model(model))
        against = self._of_baselines(show) if baselines else {}
        ours = {part: _mean([scored[part] for scored in each]) for part in each[0]}
        measured = _scorer(ours)
        if len(each) > 1:
            _add_each_model(measured, each)
        return Report(
            protocol=self._protocol,
            models=[model.version for model in models],
            actions=measured.actions,
            retrieval=measured.retrieval,
            baselines={name: _scorer(scored) for name, scored in against.items()},
            differences={name: _scorer(_difference(ours, scored)) for name, scored in against.items()},
        )

    def _of_model(self, model: Phoenix) -> Scored:
        predicted = predictions(model, self._split)
        found = self._task.nearest(
            viewer_vectors(model, self._split, self._task.viewer_id), post_vectors(model, self._split), RETRIEVED
        )
        ranked = {action: self._ranked(action, predicted[:, ACTION_INDEX[action]]) for action in self._actions}
        return ranked | {_RETRIEVAL: self._retrieved(found)}

    def _of_baselines(self, show: Callable[[str], None]) -> dict[str, Scored]:
        show("baselines of retrieval")
        scored: dict[str, Scored] = {
            name: {_RETRIEVAL: self._retrieved(found)} for name, found in self._task.baselines(RETRIEVED).items()
        }
        show("counters")
        ranking = RankingBaselines(self._split, self._actions)
        for action in self._actions:
            show(f"baselines of {action}")
            for name, probabilities in ranking.predict(action).items():
                scored.setdefault(name, {})[action] = self._ranked(action, probabilities)
        return scored

    def _ranked(self, action: ActionName, probabilities: Float[np.ndarray, " j"]) -> Figures:
        labels = self._split.labels(action, self._split.evaluated)
        return ranking_figures(labels, probabilities, self._split.rate(action), self._draws)

    def _retrieved(self, found: Found) -> Figures:
        return {f"recall@{RETRIEVED}": self._retrieval_draws.mean(metrics.recall(found, self._task.relevant))}


def ranking_figures(
    labels: Bool[np.ndarray, " j"], probabilities: Float[np.ndarray, " j"], rate: float, draws: Draws
) -> Figures:
    """Return all metrics of the predictions of one action; `rate` is its rate in the training rows."""
    return {
        "auc": metrics.auc(labels, probabilities, draws),
        "gauc": metrics.gauc(labels, probabilities, draws),
        "log_loss": metrics.log_loss(labels, probabilities, draws),
        "rce": metrics.relative_cross_entropy(labels, probabilities, rate, draws),
        "ece": metrics.calibration_error(labels, probabilities, draws),
        "calibration": metrics.calibration_ratio(labels, probabilities, draws),
    }


def _protocol(split: Split, actions: Sequence[ActionName]) -> dict[str, Any]:
    trained, evaluated = split.trained, split.evaluated
    return {
        "trained_since_ms": split.trained_since_ms,
        "since_ms": split.since_ms,
        "until_ms": split.until_ms,
        "labelled_since": dict(split.labelled_since),
        "trained_impressions": len(trained),
        "impressions": len(evaluated),
        "viewers": len(np.unique(split.log.viewer_id[evaluated])),
        "positives": {action: int(split.labels(action, evaluated).sum()) for action in actions},
        "trained_rate": {action: split.rate(action) for action in actions},
        "rate": {action: float(split.labels(action, evaluated).mean()) for action in actions},
    }


def _mean(figures: Sequence[Figures]) -> Figures:
    """Average over models, for each draw."""
    return {metric: np.mean([each[metric] for each in figures], axis=0) for metric in figures[0]}


def _difference(ours: Scored, theirs: Scored) -> Scored:
    """Subtract their figures from ours for each draw, for the metrics that both have."""
    return {
        part: {metric: ours[part][metric] - figures[metric] for metric in figures} for part, figures in theirs.items()
    }


def _scorer(scored: Scored) -> Scorer:
    measured = {part: _measured(figures) for part, figures in scored.items()}
    retrieval = measured.pop(_RETRIEVAL, {})
    return Scorer(actions=measured, retrieval=retrieval)


def _measured(figures: Figures) -> Measured:
    estimates = {metric: Estimate.of(drawn) for metric, drawn in figures.items()}
    values: Measured = {metric: estimate.value for metric, estimate in estimates.items()}
    return values | {"interval": {metric: [each.low, each.high] for metric, each in estimates.items()}}


def _add_each_model(measured: Scorer, each: Sequence[Scored]) -> None:
    for part, its in (measured.actions | {_RETRIEVAL: measured.retrieval}).items():
        its["models"] = {metric: [float(scored[part][metric][0]) for scored in each] for metric in its["interval"]}
