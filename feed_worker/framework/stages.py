"""What calling a component of each kind means: what it gets, what it must give back, and where that goes.

Asking changes nothing, wherever it is done and whatever comes of it; nothing of a request changes unless all that a
component gave back for it is right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from feed_worker.candidates.columns import Candidates, concat
from feed_worker.framework.components import (
    Component,
    Fetched,
    Filter,
    Hydrator,
    QueryFields,
    QueryHydrator,
    Scorer,
    Selector,
    Source,
)
from feed_worker.framework.request_run import RequestRun

Runs: TypeAlias = Sequence[RequestRun]

_KNOWABLE: Final = QueryFields.__annotations__.keys()


class ContractError(TypeError):
    """A component returned something that does not fit what it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A kind of components, and how the framework deals with them.

    Attributes:
        name: what funnels and budgets call it.
        ask: what a component says to each of these requests; raises where that does not fit.
        take: do with a request what the component said; never raises.
        batched: whether a call is for the whole batch; else for one request.
        parallel: whether components that do not wait for each other are asked at the same time.
        of_queries: whether components are asked where there are no candidates either.
        counted: whether the funnel shows the number of candidates.

    """

    name: str
    call: Callable[[Any, Runs], list[Any]]
    apply: Callable[[RequestRun, str, Any], None]
    batched: bool = False
    parallel: bool = False
    of_queries: bool = False
    counted: bool = False

    def waves(self, components: Sequence[Component]) -> list[list[Component]]:
        """The components in their order, those together that are asked at the same time."""
        waves: list[list[Component]] = []
        for component in components:
            apart = bool(waves) and component.own_thread and waves[-1][-1].own_thread
            if self.parallel and apart and not component.waits:
                waves[-1].append(component)
            else:
                waves.append([component])
        return waves

    def groups(self, runs: Runs) -> list[Runs]:
        """The requests, those together that one call is for."""
        return [runs] if self.batched else [[run] for run in runs]

    def outcomes(
        self,
        component: Component,
        runs: Runs,
        passes: tuple[type[Exception], ...],
        given_up: Callable[[], bool] = lambda: False,
    ) -> list[Any]:
        """What a component says to each request, or the Exception it raised; where a batch fails, asked one by one.

        One by one it is asked until it is `given_up`; there are then fewer outcomes, which nobody reads.

        Raises:
            Exception: one of `passes`.

        """
        try:
            return self.call(component, runs)
        except passes:
            raise
        except Exception as error:  # whatever a component raises is that component's failure
            if len(runs) == 1:
                return [error]
        alone = (self.outcomes(component, [run], passes, given_up) for run in runs if not given_up())
        return [outcome for outcomes in alone for outcome in outcomes]


def _call_query_hydrator(component: QueryHydrator, runs: Runs) -> list[QueryFields]:
    known = list(component.hydrate([run.query for run in runs]))
    _demand(len(known) == len(runs), f"{len(known)} answers to {len(runs)} queries")
    for each in known:
        _demand(each.keys() <= _KNOWABLE, f"{', '.join(each)} of a query, which has {', '.join(_KNOWABLE)} to set")
    return known


def _apply_query_fields(run: RequestRun, _name: str, known: QueryFields) -> None:
    for attribute, value in known.items():
        setattr(run.query, attribute, value)


def _call_source(component: Source, runs: Runs) -> list[Fetched]:
    fetched = list(component.fetch([run.query for run in runs]))
    _demand(len(fetched) == len(runs), f"{len(fetched)} answers to {len(runs)} queries")
    fits = all(isinstance(each, Fetched) and isinstance(each.candidates, Candidates) for each in fetched)
    _demand(fits, "something else than candidates fetched")
    return fetched


def _apply_fetched(run: RequestRun, name: str, fetched: Fetched) -> None:
    """Add candidates to those of the sources before; the order of sources decides, not who was first."""
    run.candidates = concat([run.candidates, fetched.candidates])
    run.query.found = len(run.candidates)
    run.query.degradations += [f"{name}: {lacking}" for lacking in fetched.lacking]


def _call_hydrator(component: Hydrator, runs: Runs) -> list[Candidates]:
    return [_as_before(run.candidates, component.hydrate(run.query, run.candidates)) for run in runs]


def _call_scorer(component: Scorer, runs: Runs) -> list[Candidates]:
    scored = component.score([run.query for run in runs], [run.candidates for run in runs])
    _demand(len(scored) == len(runs), f"{len(scored)} answers to {len(runs)} queries")
    return [_as_before(run.candidates, candidates) for run, candidates in zip(runs, scored, strict=True)]


def _apply_candidates(run: RequestRun, _name: str, candidates: Candidates) -> None:
    run.candidates = candidates


def _call_filter(component: Filter, runs: Runs) -> list[Any]:
    masks = [component.keep(run.query, run.candidates) for run in runs]
    for run, mask in zip(runs, masks, strict=True):
        fits = mask.dtype == np.bool_ and mask.shape == (len(run.candidates),)
        _demand(fits, f"a mask of {mask.dtype}{list(mask.shape)} for {len(run.candidates)} candidates")
    return masks


def _call_selector(component: Selector, runs: Runs) -> list[Any]:
    chosen = [component.select(run.query, run.candidates) for run in runs]
    for run, positions in zip(runs, chosen, strict=True):
        _demand(np.issubdtype(positions.dtype, np.integer), f"positions of {positions.dtype}")
        _demand(len(np.unique(positions)) == len(positions), "a position twice")
        inside = (positions >= 0) & (positions < len(run.candidates))
        _demand(bool(inside.all()), f"a position outside {len(run.candidates)} candidates")
    return chosen


def _as_before(before: Candidates, after: Candidates) -> Candidates:
    same = before.posts is after.posts or np.array_equal(before.posts.post_id, after.posts.post_id)
    _demand(same, f"{len(after)} candidates, or others, instead of the {len(before)} given")
    return after


def _demand(fits: bool, what: str) -> None:
    if not fits:
        raise ContractError(what)


def _narrow(run: RequestRun, name: str, index: Any) -> None:
    run.narrow(name, index)


QUERY_HYDRATOR: Final = Stage(
    name="query_hydrator",
    call=_call_query_hydrator,
    apply=_apply_query_fields,
    batched=True,
    parallel=True,
    of_queries=True,
)
SOURCE: Final = Stage(
    name="source",
    call=_call_source,
    apply=_apply_fetched,
    batched=True,
    parallel=True,
    of_queries=True,
    counted=True,
)
HYDRATOR: Final = Stage(name="hydrator", call=_call_hydrator, apply=_apply_candidates)
FILTER: Final = Stage(name="filter", call=_call_filter, apply=_narrow, counted=True)
SCORER: Final = Stage(name="scorer", call=_call_scorer, apply=_apply_candidates, batched=True)
SELECTOR: Final = Stage(name="selector", call=_call_selector, apply=_narrow, counted=True)
POST_SELECTION_FILTER: Final = Stage(name="post_selection_filter", call=_call_filter, apply=_narrow, counted=True)
