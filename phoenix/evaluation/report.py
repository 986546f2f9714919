"""The whole judgement of one or several trained models of one kind on a split, beside the baselines.

Glossary of shapes:

    d: draws of viewers (see `phoenix.evaluation.bootstrap`)

Several models, trained alike from different seeds, are judged by the mean of their figures. Differences are the models'
figures minus a baseline's on the same draws; an interval that does not contain 0 is a difference.
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
"""By metric: the figure on each draw."""
Scored = dict[str, Figures]
"""By action, or under `retrieval`."""
Measured = dict[str, Any]
"""By metric: the figure. Under `interval` the 95 % intervals, under `models` each model's own figures, by metric."""


class Scorer(Struct, omit_defaults=True):
    """What was measured of one scorer."""

    actions: dict[str, Measured] = {}
    retrieval: Measured = {}


class Report(Struct):
    """What `foryou evaluate --json` prints."""

    protocol: dict[str, Any]
    """The spans in epoch ms, what lies in them, seed and number of draws."""
    models: list[str]
    """Their versions."""
    actions: dict[str, Measured]
    retrieval: Measured
    baselines: dict[str, Scorer]
    differences: dict[str, Scorer]
    """By baseline: the models' figures minus its own."""


class Judge:
    """Judges models, and the baselines beside them.

    Args:
        split: what is judged.
        actions: whose predictions are judged.
        retrieved_for: the action that makes a post worth finding.
        seed: of the draws.
        replicates: how many draws.

    Raises:
        ValueError: nobody wanted anything that could be found.

    """

    def __init__(
        self, split: Split, actions: Sequence[ActionName], *, retrieved_for: ActionName, seed: int, replicates: int
    ) -> None:
        self._split, self._actions = split, actions
        self._task = RetrievalTask(split, retrieved_for)
        self._asked = Draws.of(self._task.viewer_id, seed, replicates)
        self._draws = Draws.of(split.log.viewer_id[split.judged], seed, replicates)
        self._protocol = _protocol(split, actions) | {
            "retrieved_for": retrieved_for,
            "retrieval_viewers": len(self._task.viewer_id),
            "retrieval_wanted": int(self._task.wanted.sum()),
            "seed": seed,
            "replicates": replicates,
        }

    def report(self, models: Sequence[Phoenix], tell: Callable[[str], None], *, baselines: bool) -> Report:
        """Judge models that were trained alike; with `baselines` also those, which takes a minute or two.

        Args:
            models: one or more.
            tell: is told what is judged next.
            baselines: whether to.

        """
        each = []
        for model in models:
            tell(model.version)
            each.append(self._of_model(model))
        against = self._of_baselines(tell) if baselines else {}
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

    def _of_baselines(self, tell: Callable[[str], None]) -> dict[str, Scored]:
        tell("baselines of retrieval")
        scored: dict[str, Scored] = {
            name: {_RETRIEVAL: self._retrieved(found)} for name, found in self._task.baselines(RETRIEVED).items()
        }
        tell("counters")
        ranking = RankingBaselines(self._split, self._actions)
        for action in self._actions:
            tell(f"baselines of {action}")
            for name, probabilities in ranking.predict(action).items():
                scored.setdefault(name, {})[action] = self._ranked(action, probabilities)
        return scored

    def _ranked(self, action: ActionName, probabilities: Float[np.ndarray, " j"]) -> Figures:
        labels = self._split.labels(action, self._split.judged)
        return ranking_figures(labels, probabilities, self._split.rate(action), self._draws)

    def _retrieved(self, found: Found) -> Figures:
        return {f"recall@{RETRIEVED}": self._asked.mean(metrics.recall(found, self._task.wanted))}


def ranking_figures(
    labels: Bool[np.ndarray, " j"], probabilities: Float[np.ndarray, " j"], rate: float, draws: Draws
) -> Figures:
    """Every metric of predictions of one action; `rate` is how often it followed in what was learned from."""
    return {
        "auc": metrics.auc(labels, probabilities, draws),
        "gauc": metrics.gauc(labels, probabilities, draws),
        "log_loss": metrics.log_loss(labels, probabilities, draws),
        "rce": metrics.relative_cross_entropy(labels, probabilities, rate, draws),
        "ece": metrics.calibration_error(labels, probabilities, draws),
        "calibration": metrics.calibration_ratio(labels, probabilities, draws),
    }


def _protocol(split: Split, actions: Sequence[ActionName]) -> dict[str, Any]:
    trained, judged = split.trained, split.judged
    return {
        "trained_since_ms": split.trained_since_ms,
        "since_ms": split.since_ms,
        "until_ms": split.until_ms,
        "labelled_since": dict(split.labelled_since),
        "trained_impressions": len(trained),
        "impressions": len(judged),
        "viewers": len(np.unique(split.log.viewer_id[judged])),
        "positives": {action: int(split.labels(action, judged).sum()) for action in actions},
        "trained_rate": {action: split.rate(action) for action in actions},
        "rate": {action: float(split.labels(action, judged).mean()) for action in actions},
    }


def _mean(figures: Sequence[Figures]) -> Figures:
    """The mean over models, draw by draw."""
    return {metric: np.mean([each[metric] for each in figures], axis=0) for metric in figures[0]}


def _difference(ours: Scored, theirs: Scored) -> Scored:
    """For what both were judged by, draw by draw."""
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
