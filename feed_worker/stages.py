"""What calling a component of each kind means: what it gets, what it must give back, and where that goes.

Nothing of a request changes unless all that a component returned for its batch is right.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from feed_worker.candidates import Candidates, concat
from feed_worker.components import Filter, Hydrator, QueryHydrator, Scorer, Selector, Source
from feed_worker.run import Run

Runs: TypeAlias = Sequence[Run]


class ContractError(TypeError):
    """A component returned something that does not fit what it was given."""


def hydrate_queries(component: QueryHydrator, runs: Runs) -> None:
    """Let a query hydrator fill in the queries."""
    component.hydrate([run.query for run in runs])


def fetch(component: Source, runs: Runs) -> None:
    """Add a source's candidates to those of the sources before it."""
    found = component.fetch([run.query for run in runs])
    _demand(len(found) == len(runs), f"{len(found)} answers to {len(runs)} queries")
    for run, candidates in zip(runs, found, strict=True):
        run.candidates = concat([run.candidates, candidates])
        run.query.found = len(run.candidates)


def hydrate(component: Hydrator, runs: Runs) -> None:
    """Let a hydrator add columns."""
    for run in runs:
        run.candidates = _as_before(run.candidates, component.hydrate(run.query, run.candidates))


def apply_filter(component: Filter, runs: Runs) -> None:
    """Keep the candidates under a filter's mask."""
    for run in runs:
        mask = component.keep(run.query, run.candidates)
        fits = mask.dtype == np.bool_ and mask.shape == (len(run.candidates),)
        _demand(fits, f"a mask of {mask.dtype}{list(mask.shape)} for {len(run.candidates)} candidates")
        run.narrow(component.name, mask)


def score(component: Scorer, runs: Runs) -> None:
    """Let a scorer fill in its column."""
    scored = component.score([run.query for run in runs], [run.candidates for run in runs])
    _demand(len(scored) == len(runs), f"{len(scored)} answers to {len(runs)} queries")
    checked = [_as_before(run.candidates, candidates) for run, candidates in zip(runs, scored, strict=True)]
    for run, candidates in zip(runs, checked, strict=True):
        run.candidates = candidates


def select(component: Selector, runs: Runs) -> None:
    """Keep the candidates at a selector's positions, in their order."""
    for run in runs:
        positions = component.select(run.query, run.candidates)
        _demand(np.issubdtype(positions.dtype, np.integer), f"positions of {positions.dtype}")
        _demand(len(np.unique(positions)) == len(positions), "a position twice")
        run.narrow(component.name, positions)


def _as_before(before: Candidates, after: Candidates) -> Candidates:
    same = before.posts is after.posts or np.array_equal(before.posts.post_id, after.posts.post_id)
    _demand(same, f"{len(after)} candidates, or others, instead of the {len(before)} given")
    return after


def _demand(fits: bool, what: str) -> None:
    if not fits:
        raise ContractError(what)
