"""The contract of each kind of component: its call, the checks of its result, and the application of the result.

A call changes nothing, in any thread and with any outcome. A result is applied to a request only after all checks.
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

_QUERY_FIELDS: Final = QueryFields.__annotations__.keys()


class ContractError(TypeError):
    """The result of a component does not fit its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A kind of component, and the framework's rules for it.

    Attributes:
        name: in funnels, statistics and budgets.
        call: calls a component and returns its outcome for each request; raises ContractError if that does not fit.
        apply: applies an outcome to a request; never raises.
        batched: True if one call is for the whole batch, else for one request.
        parallel: True if components that do not wait for each other run at the same time.
        of_queries: True if components also run for requests without candidates.
        counted: True if the funnel lists the number of candidates.

    """

    name: str
    call: Callable[[Any, Runs], list[Any]]
    apply: Callable[[RequestRun, str, Any], None]
    batched: bool = False
    parallel: bool = False
    of_queries: bool = False
    counted: bool = False

    def waves(self, components: Sequence[Component]) -> list[list[Component]]:
        """The components in order, in groups that run at the same time."""
        waves: list[list[Component]] = []
        for component in components:
            apart = bool(waves) and component.own_thread and waves[-1][-1].own_thread
            if self.parallel and apart and not component.waits:
                waves[-1].append(component)
            else:
                waves.append([component])
        return waves

    def groups(self, runs: Runs) -> list[Runs]:
        """The requests of each call."""
        return [runs] if self.batched else [[run] for run in runs]

    def outcomes(
        self,
        component: Component,
        runs: Runs,
        passes: tuple[type[Exception], ...],
        given_up: Callable[[], bool] = lambda: False,
    ) -> list[Any]:
        """A component's outcome for each request, or its Exception; a batch that fails is retried one by one.

        The retries stop once the call is `given_up`; the incomplete list of outcomes is then dropped.

        Raises:
            Exception: one of `passes`.

        """
        try:
            return self.call(component, runs)
        except passes:
            raise
        except Exception as error:  # any error is the component's failure
            if len(runs) == 1:
                return [error]
        alone = (self.outcomes(component, [run], passes, given_up) for run in runs if not given_up())
        return [outcome for outcomes in alone for outcome in outcomes]


def _call_query_hydrator(component: QueryHydrator, runs: Runs) -> list[QueryFields]:
    fields = list(component.hydrate([run.query for run in runs]))
    _require(len(fields) == len(runs), f"{len(fields)} answers to {len(runs)} queries")
    for each in fields:
        _require(each.keys() <= _QUERY_FIELDS, f"{', '.join(each)}; a query hydrator sets {', '.join(_QUERY_FIELDS)}")
    return fields


def _apply_query_fields(run: RequestRun, _name: str, fields: QueryFields) -> None:
    for attribute, value in fields.items():
        setattr(run.query, attribute, value)


def _call_source(component: Source, runs: Runs) -> list[Fetched]:
    fetched = list(component.fetch([run.query for run in runs]))
    _require(len(fetched) == len(runs), f"{len(fetched)} answers to {len(runs)} queries")
    fits = all(isinstance(each, Fetched) and isinstance(each.candidates, Candidates) for each in fetched)
    _require(fits, "something else than candidates fetched")
    return fetched


def _apply_fetched(run: RequestRun, name: str, fetched: Fetched) -> None:
    """Append candidates in the order of the sources, independent of their speed."""
    run.candidates = concat([run.candidates, fetched.candidates])
    run.query.found = len(run.candidates)
    run.query.degradations += [f"{name}: {lacking}" for lacking in fetched.lacking]


def _call_hydrator(component: Hydrator, runs: Runs) -> list[Candidates]:
    return [_unchanged(run.candidates, component.hydrate(run.query, run.candidates)) for run in runs]


def _call_scorer(component: Scorer, runs: Runs) -> list[Candidates]:
    scored = component.score([run.query for run in runs], [run.candidates for run in runs])
    _require(len(scored) == len(runs), f"{len(scored)} answers to {len(runs)} queries")
    return [_unchanged(run.candidates, candidates) for run, candidates in zip(runs, scored, strict=True)]


def _apply_candidates(run: RequestRun, _name: str, candidates: Candidates) -> None:
    run.candidates = candidates


def _call_filter(component: Filter, runs: Runs) -> list[Any]:
    masks = [component.keep(run.query, run.candidates) for run in runs]
    for run, mask in zip(runs, masks, strict=True):
        fits = mask.dtype == np.bool_ and mask.shape == (len(run.candidates),)
        _require(fits, f"a mask of {mask.dtype}{list(mask.shape)} for {len(run.candidates)} candidates")
    return masks


def _call_selector(component: Selector, runs: Runs) -> list[Any]:
    chosen = [component.select(run.query, run.candidates) for run in runs]
    for run, positions in zip(runs, chosen, strict=True):
        _require(np.issubdtype(positions.dtype, np.integer), f"positions of {positions.dtype}")
        _require(len(np.unique(positions)) == len(positions), "a position twice")
        inside = (positions >= 0) & (positions < len(run.candidates))
        _require(bool(inside.all()), f"a position outside {len(run.candidates)} candidates")
    return chosen


def _unchanged(before: Candidates, after: Candidates) -> Candidates:
    same = before.posts is after.posts or np.array_equal(before.posts.post_id, after.posts.post_id)
    _require(same, f"{len(after)} candidates, or others, instead of the {len(before)} given")
    return after


def _require(fits: bool, what: str) -> None:
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
